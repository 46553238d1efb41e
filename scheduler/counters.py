"""What the scheduler counts, and how fast its queue drains."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kvcache.breaker import BreakerState

# Retry delays stay within a range in which a client still cares and a server still breathes.
MIN_RETRY_S, MAX_RETRY_S = 1.0, 60.0


@dataclass(slots=True)
class IndexCounters:
    """Of the shared prefix index, as far as this scheduler has to do with it."""

    num_published: int = 0
    """Blocks that it took."""
    num_dropped: int = 0
    """Blocks that it did not: unreachable, full, or too many at once."""
    breaker_state: BreakerState = BreakerState.CLOSED


@dataclass(slots=True)
class ModelCounters:
    """Of the models that come into memory because somebody waits for them, and leave it."""

    num_loads: int = 0
    num_failed_loads: int = 0
    num_unloads: int = 0
    load_s: float = 0.0
    """All loads together."""


@dataclass(slots=True)
class Counters:
    """Since the scheduler started."""

    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_steps: int = 0
    num_step_tokens: int = 0
    models: ModelCounters = field(default_factory=ModelCounters)
    index: IndexCounters = field(default_factory=IndexCounters)


class DrainRate:
    """How fast sequences end, over the last few."""

    def __init__(self, time: Callable[[], float], window: int = 64) -> None:
        self._time = time
        self._ends: deque[float] = deque(maxlen=window)

    def record(self) -> None:
        self._ends.append(self._time())

    def seconds_for(self, num_sequences: int) -> float:
        """When a queue of this length will have drained, within [MIN_RETRY_S, MAX_RETRY_S]."""
        if len(self._ends) < 2:
            return MIN_RETRY_S
        mean_interval = (self._time() - self._ends[0]) / len(self._ends)
        return min(max(num_sequences * mean_interval, MIN_RETRY_S), MAX_RETRY_S)
