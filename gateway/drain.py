"""Counts the requests in progress, refuses new ones once the process is told to end, and says when the last has ended."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import unavailable


class Drain:
    def __init__(self) -> None:
        self._num_active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.begun = False

    def begin(self) -> None:
        self.begun = True

    @contextmanager
    def request(self) -> Iterator[None]:
        if self.begun:
            raise unavailable("This server is shutting down.")
        self._num_active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            if self._num_active == 0:
                self._idle.set()

    async def idle(self) -> None:
        await self._idle.wait()
