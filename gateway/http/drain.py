"""The shutdown of the gateway: it stops being ready, then it refuses new requests, then it waits for the open ones to end.

This module counts the open requests. `__main__` decides when each stage begins.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import unavailable


class Drain:
    """The stage of the shutdown, and the number of open requests."""

    def __init__(self) -> None:
        self._num_active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refuses = False
        self.begun = False
        """Not ready: load balancers should stop sending requests; requests that still arrive are served."""

    def begin_drain(self) -> None:
        """Stop being ready."""
        self.begun = True

    def refuse_requests(self) -> None:
        """Refuse new requests. Open requests continue."""
        self.begun = self._refuses = True

    @contextmanager
    def count_request(self) -> Iterator[None]:
        """Count a request as open while the block runs. Raise an error if new requests are refused."""
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
        """Wait until no request is open."""
        await self._idle.wait()
