"""What an operator may choose of the scheduler's policy."""

import math
from dataclasses import dataclass, field

from scheduler.routing.router import RoutingPolicy, prefix_aware
from scheduler.steps.step_decision import PrefillLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    max_waiting: int = 1024
    """Sequences that may wait."""
    max_waiting_per_tenant: int | None = None
    """Sequences of one tenant that may wait; None for as many as of all."""
    worker_grace_s: float = 60.0
    """A model without any worker for so long fails its requests."""
    max_lease_steps: int = 1
    """For at most so many steps a worker goes on by itself while no request waits."""
    prefill_limits: PrefillLimits = field(default_factory=PrefillLimits)
    keep_alive_s: float = math.inf
    """A model that is not used for so long leaves memory, unless a request has wished otherwise."""
    routing: RoutingPolicy = prefix_aware
