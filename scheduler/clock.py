"""The clock of the scheduler: protocols of time and timers that asyncio's event loop implements, and that tests fake."""

from collections.abc import Callable
from typing import Protocol


class TimerHandle(Protocol):
    def cancel(self) -> object: ...


class Timers(Protocol):
    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> TimerHandle: ...


class Clock(Timers, Protocol):
    """The part of asyncio's event loop that the scheduler uses."""

    def call_soon(self, callback: Callable[[], object], /) -> object: ...
