"""How fast the queue drains, measured where sequences end, and the Retry-After that follows from it."""

from collections import deque
from collections.abc import Callable

# Retry delays stay within a range in which a client still cares and a server still breathes.
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


class DrainRate:
    """How fast sequences end while others wait, over the last few ends. When nobody waits, it says nothing about that."""

    def __init__(self, time: Callable[[], float], window: int = 64) -> None:
        self._time = time
        self._intervals: deque[float] = deque(maxlen=window)
        """Between two ends, or from when somebody began to wait to the next end."""
        self._since_s: float | None = None
        """When the current interval began; None while nobody waits."""

    def start_interval(self) -> None:
        """A sequence waits, and none did before."""
        self._since_s = self._time()

    def record_end(self, *, somebody_waits: bool) -> None:
        """A sequence has ended."""
        now_s = self._time()
        if somebody_waits and self._since_s is not None:
            self._intervals.append(now_s - self._since_s)
        self._since_s = now_s if somebody_waits else None

    @property
    def per_s(self) -> float:
        """0 as long as it is not known."""
        total_s = sum(self._intervals)
        return len(self._intervals) / total_s if total_s else 0.0

    def seconds_for(self, num_sequences: int) -> float:
        """When a queue of this length will have drained."""
        # The interval that has not ended counts too, or one that never ends would not be seen.
        open_s = 0.0 if self._since_s is None else self._time() - self._since_s
        mean_s = (sum(self._intervals) + open_s) / (len(self._intervals) + 1)
        return num_sequences * mean_s

    def retry_after_s(self, num_sequences: int) -> float:
        """Likewise, within [MIN_RETRY_S, MAX_RETRY_S]."""
        return min(max(self.seconds_for(num_sequences), MIN_RETRY_S), MAX_RETRY_S)
