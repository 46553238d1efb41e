"""The rate at which the queue drains, measured when sequences end, and the Retry-After computed from it."""

from collections import deque
from collections.abc import Callable

# A shorter delay would overload the server with retries; clients do not wait for a longer one.
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


class DrainRate:
    """The rate at which sequences end while others wait, over the last few ends. Time in which none waits does not count."""

    def __init__(self, time: Callable[[], float], window: int = 64) -> None:
        self._time = time
        self._intervals: deque[float] = deque(maxlen=window)
        """Times between two ends, or from the first waiting sequence to the next end, in seconds."""
        self._since_s: float | None = None
        """Start of the current interval; None while no sequence waits."""

    def start_interval(self) -> None:
        """Begin an interval, because the first sequence waits."""
        self._since_s = self._time()

    def record_end(self, *, somebody_waits: bool) -> None:
        """Note that a sequence has ended."""
        now_s = self._time()
        if somebody_waits and self._since_s is not None:
            self._intervals.append(now_s - self._since_s)
        self._since_s = now_s if somebody_waits else None

    @property
    def per_s(self) -> float:
        """Sequences per second; 0 if unknown."""
        total_s = sum(self._intervals)
        return len(self._intervals) / total_s if total_s else 0.0

    def seconds_for(self, num_sequences: int) -> float:
        """Return the seconds in which a queue of this length will probably drain."""
        # The current interval counts too; otherwise a queue that stands still would not be noticed.
        open_s = 0.0 if self._since_s is None else self._time() - self._since_s
        mean_s = (sum(self._intervals) + open_s) / (len(self._intervals) + 1)
        return num_sequences * mean_s

    def retry_after_s(self, num_sequences: int) -> float:
        """Return `seconds_for` this length, limited to [MIN_RETRY_S, MAX_RETRY_S]."""
        return min(max(self.seconds_for(num_sequences), MIN_RETRY_S), MAX_RETRY_S)
