"""A circuit breaker: after some failures in a row it refuses all calls, until a single trial call succeeds again.

It has no locks, since only one event loop uses it.
"""

import time
from collections.abc import Callable
from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    """All calls are allowed."""
    OPEN = "open"
    """All calls are refused immediately."""
    HALF_OPEN = "half_open"
    """One trial call is running; all others are refused."""


class CircuitBreaker:
    def __init__(
        self,
        *,
        max_failures: int = 3,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a closed breaker. It opens after `max_failures` in a row. The pause before a trial doubles if the trial fails."""
        self.state = BreakerState.CLOSED
        self._max_failures = max_failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._num_failures = 0
        self._pause_s = first_pause_s
        self._try_at_s = 0.0

    def admits(self) -> bool:
        """Return True if a call is allowed. The caller must then report its outcome by exactly one of the three methods below."""
        if self.state is BreakerState.OPEN and self._clock() >= self._try_at_s:
            self.state = BreakerState.HALF_OPEN
            return True
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> None:
        self.state = BreakerState.CLOSED
        self._num_failures = 0
        self._pause_s = self._first_pause_s

    def failed(self) -> None:
        if self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, self._longest_pause_s)
            self._open()
        elif self.state is BreakerState.CLOSED:
            self._num_failures += 1
            if self._num_failures >= self._max_failures:
                self._open()
        # If it is open already, the call began before that, and its failure is nothing new.

    def abandoned(self) -> None:
        """Note that the caller gave up before the call had an outcome. The next caller may try immediately."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._try_at_s = self._clock() + self._pause_s
