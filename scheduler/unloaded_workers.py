"""Workers whose model has left memory, and who waits for it to come back.

Such a worker still counts: its model is listed, its limits are those that requests are checked against, and it loads again
when it is wanted. Knows nothing about when that is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from scheduler.errors import RequestError, UnavailableError
from scheduler.keep_alive import Timers
from scheduler.worker_state import WorkerInfo

Told = Callable[[RequestError | None], object]
"""Called once: with None when the model is in memory, else with why it will not be."""


class LoadLink(Protocol):
    """The way to one worker without a model. The calls return at once."""

    def send_load(self, model: str, digest: str) -> None: ...

    def send_drain(self) -> None: ...


@dataclass(slots=True, eq=False)
class UnloadedWorker:
    info: WorkerInfo
    """As it was with the model, and will be again."""
    session_id: int = 0
    link: LoadLink | None = None
    """None between two streams."""
    is_busy: bool = False
    """It loads."""


class UnloadedWorkers:
    def __init__(
        self,
        timers: Timers,
        *,
        grace_s: float,
        on_changed: Callable[[], object],
        on_failed: Callable[[str, RequestError], object],
    ) -> None:
        """One that has no stream for `grace_s` is forgotten. `on_failed` hears of a model that no worker here will load."""
        self._timers = timers
        self._grace_s = grace_s
        self._on_changed = on_changed
        self._on_failed = on_failed
        self._workers: dict[str, UnloadedWorker] = {}
        self._waiting: defaultdict[str, list[Told]] = defaultdict(list)
        self._num_sessions = 0

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[UnloadedWorker]:
        return iter(list(self._workers.values()))

    def expect(self, info: WorkerInfo) -> None:
        """It has been told to unload, and will be back without a model."""
        worker = self._workers[info.worker_id] = UnloadedWorker(info)
        self._forget_unless_back(worker)

    def attach(self, info: WorkerInfo, link: LoadLink) -> UnloadedWorker:
        self._num_sessions += 1
        worker = self._workers[info.worker_id] = UnloadedWorker(info, self._num_sessions, link)
        self._on_changed()
        return worker

    def detach(self, worker: UnloadedWorker) -> None:
        """Its stream ended: it will be back, with a model or without."""
        if self._workers.get(worker.info.worker_id) is worker:
            worker.link, worker.is_busy = None, False
            self._forget_unless_back(worker)

    def dismiss(self, worker: UnloadedWorker) -> None:
        """It shall end its stream, and is not expected back."""
        if worker.link is not None:
            worker.link.send_drain()
        self._workers.pop(worker.info.worker_id, None)
        self._timers.call_later(self._grace_s, lambda: self._fail_unless_held(worker.info.model))
        self._on_changed()

    def loaded(self, info: WorkerInfo) -> None:
        """Some worker has this model in memory now."""
        self._workers.pop(info.worker_id, None)
        self._tell(info.model, None)

    def load(self, model: str) -> None:
        """By all that hold it. One without a stream is asked when it has one, by calling this again."""
        for worker in self._of(model):
            if worker.link is not None and not worker.is_busy:
                worker.is_busy = True
                worker.link.send_load(model, worker.info.model_digest)

    def load_failed(self, worker: UnloadedWorker, reason: str) -> None:
        """Others may still be loading it; else nobody waits any longer."""
        worker.is_busy = False
        model = worker.info.model
        if not any(other.is_busy for other in self._of(model)):
            self._fail(model, UnavailableError(f"{model!r} cannot be loaded: {reason}", retry_after_s=5.0))

    def has(self, model: str) -> bool:
        return bool(self._of(model))

    def wait_for(self, model: str, told: Told) -> None:
        self._waiting[model].append(told)

    def is_awaited(self, model: str) -> bool:
        return model in self._waiting

    def nobody_came(self, model: str) -> RequestError:
        """What those hear who have waited too long for it."""
        return UnavailableError(f"no worker has served {model!r} for {self._grace_s:g} s", retry_after_s=5.0)

    def _of(self, model: str) -> list[UnloadedWorker]:
        return [worker for worker in self if worker.info.model == model]

    def _forget_unless_back(self, worker: UnloadedWorker) -> None:
        self._timers.call_later(self._grace_s, lambda: self._forget(worker))

    def _forget(self, worker: UnloadedWorker) -> None:
        if self._workers.get(worker.info.worker_id) is not worker or worker.link is not None:
            return
        del self._workers[worker.info.worker_id]
        self._fail_unless_held(worker.info.model)
        self._on_changed()

    def _fail_unless_held(self, model: str) -> None:
        if not self.has(model):
            self._fail(model, self.nobody_came(model))

    def _fail(self, model: str, error: RequestError) -> None:
        self._tell(model, error)
        self._on_failed(model, error)

    def _tell(self, model: str, error: RequestError | None) -> None:
        for told in self._waiting.pop(model, []):
            told(error)
