"""What the scheduler counts."""

from dataclasses import dataclass, field

from kvcache.breaker import BreakerState


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
