"""Faults for the tests of background tasks: a method raises a few times, and then works again."""

import asyncio
import inspect
from typing import Any

import pytest


class Fault(Exception):
    """An error that no code expects."""


def fail_first(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, times: int = 1) -> asyncio.Event:
    """Let the next calls raise Fault. Return an event that is set by the first call after these."""
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
    """Return the messages of the log records that have a fault's traceback."""
    return [record.getMessage() for record in caplog.records if record.exc_info and record.exc_info[0] is Fault]
