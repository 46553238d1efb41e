"""The counters of the scheduler."""

from dataclasses import dataclass, field

from kvcache.breaker import BreakerState


@dataclass(slots=True)
class IndexCounters:
    """Counters of this scheduler's use of the shared prefix index."""

    num_published: int = 0
    """Blocks that the index accepted."""
    num_dropped: int = 0
    """Blocks that the index did not accept: it was unreachable or full, or there were too many at once."""
    breaker_state: BreakerState = BreakerState.CLOSED


@dataclass(slots=True)
class ModelCounters:
    """Counters of models that are loaded on demand, and unloaded."""

    num_loads: int = 0
    num_failed_loads: int = 0
    num_unloads: int = 0
    load_s: float = 0.0
    """Total duration of the successful loads, in seconds."""


@dataclass(slots=True)
class Counters:
    """All counters since the scheduler started."""

    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_steps: int = 0
    num_step_tokens: int = 0
    models: ModelCounters = field(default_factory=ModelCounters)
    index: IndexCounters = field(default_factory=IndexCounters)
