"""When those who wait for a model hear that it will not come: nobody has it any more, or nobody gets it into memory.

Knows nothing about which worker was to load it, and why.
"""

from collections import Counter

from scheduler.clock import TimerHandle, Timers
from scheduler.errors import InvalidRequestError, UnavailableError
from scheduler.models.model_waiters import ModelWaiters
from scheduler.models.served_models import ServedModels
from scheduler.models.worker_stores import WorkerStores

# Where the system kills who takes too much memory, no worker lives to say that a model is too large.
MAX_LOST_LOADS = 3


class ModelOutages:
    def __init__(
        self, timers: Timers, served: ServedModels, stores: WorkerStores, waiters: ModelWaiters, *, grace_s: float
    ) -> None:
        """A model without any worker for `grace_s` has its requests failed."""
        self._timers = timers
        self._served = served
        self._stores = stores
        self._waiters = waiters
        self._grace_s = grace_s
        self._ends_of_grace: dict[str, TimerHandle] = {}
        """Of models whose last worker is gone, and none has come since."""
        self._num_lost_loads: Counter[str] = Counter()
        """Workers that were lost while they loaded a model, since it was last in memory."""

    def end(self, model: str) -> None:
        """It is in memory."""
        self._end_grace(model)
        self._num_lost_loads.pop(model, None)

    def begin_grace(self, model: str) -> None:
        """A worker that could serve it is gone. Anew, where it had begun."""
        self._end_grace(model)
        self._ends_of_grace[model] = self._timers.call_later(self._grace_s, lambda: self.fail_orphans(model))

    def fail_orphans(self, model: str) -> None:
        """The grace is over: unless some worker could load it."""
        self._end_grace(model)
        if not any(True for _ in self._stores.able(model)):
            self._give_up(model, f"no worker has served {model!r} for {self._grace_s:g} s")

    def load_lost(self, model: str) -> None:
        """A worker was lost while it loaded it. A load that kills worker after worker is asked of no further one."""
        self._num_lost_loads[model] += 1
        if self._num_lost_loads[model] >= MAX_LOST_LOADS:
            del self._num_lost_loads[model]
            self._give_up(model, f"{MAX_LOST_LOADS} workers in a row were lost while they loaded {model!r}")

    def load_failed(self, model: str, reason: str, *, permanent: bool) -> None:
        """`permanent`: its files will not do, so that no client should try again."""
        self._give_up(model, f"{model!r} cannot be loaded: {reason}", permanent=permanent)

    def _give_up(self, model: str, reason: str, *, permanent: bool = False) -> None:
        """Unless a worker serves it after all."""
        if not self._served.is_served(model):
            error = InvalidRequestError(reason) if permanent else UnavailableError(reason, retry_after_s=5.0)
            self._waiters.fail(model, error)

    def _end_grace(self, model: str) -> None:
        if (timer := self._ends_of_grace.pop(model, None)) is not None:
            timer.cancel()
