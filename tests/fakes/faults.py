"""Faults for the tests of background tasks: a method that raises a few times, and from then on does what it did."""

import asyncio
import inspect
from typing import Any

import pytest


class Fault(Exception):
    """Not an error that anything is prepared for."""


def fail_first(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, times: int = 1) -> asyncio.Event:
    """Let the next calls raise Fault. The event is set when the method has been called once more after that."""
    original, num_left, works_again = getattr(owner, method), times, asyncio.Event()

    def fails() -> bool:
        nonlocal num_left
        num_left -= 1
        if num_left < 0:
            works_again.set()
        return num_left >= 0

    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        if fails():
            raise Fault(method)
        return await original(*args, **kwargs)

    def synchronous(*args: Any, **kwargs: Any) -> Any:
        if fails():
            raise Fault(method)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, asynchronous if inspect.iscoroutinefunction(original) else synchronous)
    return works_again


def faults(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of those log records that have the traceback of a fault."""
    return [record.getMessage() for record in caplog.records if record.exc_info and record.exc_info[0] is Fault]
