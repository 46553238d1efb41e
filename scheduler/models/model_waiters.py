"""The sequences and clients that wait for a model to be loaded.

They fail if no worker has had the model for a while, or if no worker can load it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Set

from scheduler.clock import TimerHandle
from scheduler.context import SchedulerContext
from scheduler.errors import InvalidRequestError, RequestError, UnavailableError
from scheduler.lifecycle import Lifecycle
from scheduler.models.served_models import ServedModels

# A process that the system kills for its memory use cannot report that a model is too large, so lost workers are counted.
MAX_LOST_LOADS = 3

OnOutcome = Callable[[RequestError | None], object]
"""A callback that is called once: with None when the model is loaded, else with the reason why it will not be."""


class ModelWaiters:
    def __init__(
        self, context: SchedulerContext, lifecycle: Lifecycle, served: ServedModels, *, grace_s: float
    ) -> None:
        """Create the part. The requests of a model without any worker fail after `grace_s`."""
        self._context = context
        self._lifecycle = lifecycle
        self._served = served
        self._grace_s = grace_s
        self._without_request: defaultdict[str, list[tuple[float, OnOutcome]]] = defaultdict(list)
        """Clients that wait for a model without a request, by model, with the time since which they wait."""
        self._ends_of_grace: dict[str, TimerHandle] = {}
        """Timers of models whose last worker is gone."""
        self._num_lost_loads: Counter[str] = Counter()
        """Number of workers that were lost while they loaded a model, since it was last loaded."""

    @property
    def models(self) -> Set[str]:
        """The wanted models: those that sequences or clients wait for."""
        return self._context.waiting.models | self._without_request.keys()

    def waited_for_since_s(self, model: str) -> float:
        """Return the time since which the longest waiting sequence or client wants the model. There must be one."""
        since_s = [since_s for since_s, _ in self._without_request.get(model, ())]
        if model in self._context.waiting.models:
            since_s.append(self._context.waiting.waiting_since_s(model))
        return min(since_s)

    def add_waiter(self, model: str, on_outcome: OnOutcome) -> None:
        """Add a client that waits for the model without a request."""
        self._without_request[model].append((self._context.clock.time(), on_outcome))

    def record_in_memory(self, model: str) -> None:
        """Note that the model is loaded: end its grace period, and notify the clients that wait without a request."""
        self._stop_grace_timer(model)
        self._num_lost_loads.pop(model, None)
        self._notify_waiters(model, None)

    # ---- failures

    def begin_grace(self, model: str) -> None:
        """Start or restart the model's grace period, because a worker that could serve it is gone."""
        self._stop_grace_timer(model)
        self._ends_of_grace[model] = self._context.clock.call_later(self._grace_s, lambda: self.fail_orphans(model))

    def fail_orphans(self, model: str) -> None:
        """Fail the requests that wait for the model, unless a worker can load it."""
        self._stop_grace_timer(model)
        if not self._served.is_loadable(model):
            self._give_up(model, f"no worker has served model {model!r} for {self._grace_s:g} s")

    def record_lost_load(self, model: str) -> None:
        """Count a worker that was lost while it loaded the model. After several in a row, no further worker tries it."""
        self._num_lost_loads[model] += 1
        if self._num_lost_loads[model] >= MAX_LOST_LOADS:
            del self._num_lost_loads[model]
            reason = f"{MAX_LOST_LOADS} workers in a row were lost while they loaded model {model!r}"
            self._give_up(model, f"{reason}, perhaps because memory ran out; their supervisor's log says why")

    def fail_load(self, model: str, reason: str, *, permanent: bool) -> None:
        """Fail the requests that wait for a model that cannot be loaded. `permanent` is true if clients should not retry."""
        self._give_up(model, f"model {model!r} cannot be loaded: {reason}", permanent=permanent)

    def _give_up(self, model: str, reason: str, *, permanent: bool = False) -> None:
        """Fail all requests and clients that wait for the model, unless a worker serves it by now."""
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
