"""A circuit breaker: after some failures in a row nobody is made to wait any more, until a single try shows that it works again.

One event loop uses it: no locks.
"""

import time
from collections.abc import Callable
from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    """Calls go through."""
    OPEN = "open"
    """Calls are refused at once."""
    HALF_OPEN = "half_open"
    """One call is on its way to find out; all others are refused."""


class CircuitBreaker:
    def __init__(
        self,
        *,
        max_failures: int = 3,
        first_pause_s: float = 0.5,
        longest_pause_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens at `max_failures` in a row. The pause before a try doubles with each try that fails."""
        self.state = BreakerState.CLOSED
        self._max_failures = max_failures
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._num_failures = 0
        self._pause_s = first_pause_s
        self._try_at_s = 0.0

    def admits(self) -> bool:
        """Whether a call may go ahead. Then exactly one of the three calls below tells how it went."""
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
        # Open already: a call from before that ended late says nothing new.

    def abandoned(self) -> None:
        """The caller went away before the call showed anything; the next one may try at once."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._try_at_s = self._clock() + self._pause_s
