"""The part of the scheduler's policy that an operator may choose."""

import math
from dataclasses import dataclass, field

from scheduler.routing.router import RoutingPolicy, prefix_aware
from scheduler.steps.step_decision import PrefillLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingPolicy:
    max_waiting: int = 1024
    """Maximum number of waiting sequences."""
    max_waiting_per_tenant: int | None = None
    """Maximum number of waiting sequences of one tenant; None means no limit but `max_waiting`."""
    worker_grace_s: float = 60.0
    """Seconds after which the requests of a model without any worker fail."""
    max_lease_steps: int = 1
    """Maximum number of decode steps that a worker runs by itself while no request waits."""
    prefill_limits: PrefillLimits = field(default_factory=PrefillLimits)
    keep_alive_s: float = math.inf
    """Seconds after which an unused model is unloaded, unless a request has set another value."""
    prefix_idle_s: float = math.inf
    """Seconds after which a cached prefix that no request used is dropped, so that its memory can be returned. At infinity no
    memory of pages is returned."""
    routing: RoutingPolicy = prefix_aware
