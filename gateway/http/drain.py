"""The end of the process in three stages: it is no longer ready, it refuses new requests, and the last open one has ended.

Counts the requests in progress. `__main__` decides when a stage begins and how long it takes.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import unavailable


class Drain:
    def __init__(self) -> None:
        self._num_active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refuses = False
        self.begun = False
        """Not ready: load balancers should stop sending requests; requests that still arrive are served."""

    def begin_drain(self) -> None:
        self.begun = True

    def refuse_requests(self) -> None:
        """Refuse requests from now on. Those that are open continue."""
        self.begun = self._refuses = True

    @contextmanager
    def count_request(self) -> Iterator[None]:
        if self._refuses:
            raise unavailable("This server is shutting down.")
        self._num_active += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_active -= 1
            if self._num_active == 0:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        await self._idle.wait()
