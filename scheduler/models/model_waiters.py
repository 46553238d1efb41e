"""The sequences and clients that wait for a model to come into memory, and when they hear that it will not.

They hear so when no worker has had the model for a while, and when no worker gets it into memory.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Set

from scheduler.clock import TimerHandle
from scheduler.context import SchedulerContext
from scheduler.errors import InvalidRequestError, RequestError, UnavailableError
from scheduler.lifecycle import Lifecycle
from scheduler.models.served_models import ServedModels

# Where the system kills a process that takes too much memory, no worker lives to say that a model is too large.
MAX_LOST_LOADS = 3

OnOutcome = Callable[[RequestError | None], object]
"""Called once: with None when the model is in memory, else with why it will not be."""


class ModelWaiters:
    def __init__(
        self, context: SchedulerContext, lifecycle: Lifecycle, served: ServedModels, *, grace_s: float
    ) -> None:
        """A model without any worker for `grace_s` has its requests failed."""
        self._context = context
        self._lifecycle = lifecycle
        self._served = served
        self._grace_s = grace_s
        self._without_request: defaultdict[str, list[tuple[float, OnOutcome]]] = defaultdict(list)
        """By model: the clients that want it in memory without a request, and since when."""
        self._ends_of_grace: dict[str, TimerHandle] = {}
        """The timers of models whose last worker is gone, and none has come since."""
        self._num_lost_loads: Counter[str] = Counter()
        """Workers that were lost while they loaded a model, since it was last in memory."""

    @property
    def models(self) -> Set[str]:
        """The models that anything waits for."""
        return self._context.waiting.models | self._without_request.keys()

    def waited_for_since_s(self, model: str) -> float:
        """Return since when the model is waited for, by the one that has waited longest; there is one."""
        since_s = [since_s for since_s, _ in self._without_request.get(model, ())]
        if model in self._context.waiting.models:
            since_s.append(self._context.waiting.waiting_since_s(model))
        return min(since_s)

    def add_waiter(self, model: str, on_outcome: OnOutcome) -> None:
        """Have a client without a request wait for the model."""
        self._without_request[model].append((self._context.clock.time(), on_outcome))

    def record_in_memory(self, model: str) -> None:
        """End the model's grace, and tell the clients that wait without a request: it is in memory."""
        self._stop_grace_timer(model)
        self._num_lost_loads.pop(model, None)
        self._notify_waiters(model, None)

    # ---- in vain

    def begin_grace(self, model: str) -> None:
        """Begin the model's grace, or begin it anew: a worker that could serve it is gone."""
        self._stop_grace_timer(model)
        self._ends_of_grace[model] = self._context.clock.call_later(self._grace_s, lambda: self.fail_orphans(model))

    def fail_orphans(self, model: str) -> None:
        """Fail what waits for the model, unless some worker could load it."""
        self._stop_grace_timer(model)
        if not self._served.is_loadable(model):
            self._give_up(model, f"no worker has served {model!r} for {self._grace_s:g} s")

    def record_lost_load(self, model: str) -> None:
        """Count a worker that was lost while it loaded the model. After several in a row no further worker shall try."""
        self._num_lost_loads[model] += 1
        if self._num_lost_loads[model] >= MAX_LOST_LOADS:
            del self._num_lost_loads[model]
            self._give_up(model, f"{MAX_LOST_LOADS} workers in a row were lost while they loaded {model!r}")

    def fail_load(self, model: str, reason: str, *, permanent: bool) -> None:
        """Fail what waits for a model that cannot be loaded. `permanent`: not with these files, so that no client should retry."""
        self._give_up(model, f"{model!r} cannot be loaded: {reason}", permanent=permanent)

    def _give_up(self, model: str, reason: str, *, permanent: bool = False) -> None:
        """Fail everything that waits for the model, unless a worker serves it after all."""
        if not self._served.is_served(model):
            error = InvalidRequestError(reason) if permanent else UnavailableError(reason, retry_after_s=5.0)
            self._notify_waiters(model, error)
            self._lifecycle.fail_sequences(list(self._context.waiting.of_model(model)), error)
            self._lifecycle.open_requests.deliver_events()

    def _notify_waiters(self, model: str, outcome: RequestError | None) -> None:
        for _, on_outcome in self._without_request.pop(model, []):
            on_outcome(outcome)

    def _stop_grace_timer(self, model: str) -> None:
        if (timer := self._ends_of_grace.pop(model, None)) is not None:
            timer.cancel()
