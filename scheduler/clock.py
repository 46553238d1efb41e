"""The clock of the scheduler: time and timers, as asyncio's event loop has them and as tests imitate them."""

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
