"""Which models the workers serve, in memory or to be loaded, and when one of them comes into memory or leaves it.

Knows nothing about requests beyond that some wait for a model.
"""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq

from scheduler.errors import InvalidRequestError, ModelNotServedError, RequestError, UnavailableError
from scheduler.fair_queue import FairQueue
from scheduler.keep_alive import KeepAlive, TimerHandle, Timers
from scheduler.sequence import Sequence
from scheduler.unloaded_workers import LoadLink, Told, UnloadedWorker, UnloadedWorkers
from scheduler.worker_state import AttachedWorker, WorkerInfo, WorkerPhase


class ServedModels:
    def __init__(
        self,
        timers: Timers,
        workers: Mapping[str, AttachedWorker],
        waiting: FairQueue,
        keep_alive: KeepAlive,
        *,
        grace_s: float,
        detach: Callable[[AttachedWorker], object],
        fail: Callable[[Seq[Sequence], RequestError], object],
        on_changed: Callable[[], object],
    ) -> None:
        """`workers` are those that are attached with a model. One without any for `grace_s` has its requests failed."""
        self.unloaded = UnloadedWorkers(timers, grace_s=grace_s, on_changed=on_changed, on_failed=self._fail_waiting)
        self._timers = timers
        self._workers = workers
        self._waiting = waiting
        self._keep_alive = keep_alive
        self._grace_s = grace_s
        self._ends_of_grace: dict[str, TimerHandle] = {}
        """Of models whose last worker is gone, and none has come since."""
        self._detach = detach
        self._fail = fail

    def info(self, model: str) -> WorkerInfo:
        """Of a worker that serves it; of the only model there is, for no name. Raises a RequestError where there is none."""
        known = [*(worker.info for worker in self.unloaded), *(worker.info for worker in self._workers.values())]
        infos = {info.model: info for info in known}
        if not infos:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        served = ", ".join(sorted(infos))
        if model in infos:
            return infos[model]
        if model:
            raise ModelNotServedError(f"model {model!r} is not served; served: {served}")
        if len(infos) > 1:
            raise InvalidRequestError(f"name a model, there are several: {served}")
        return next(iter(infos.values()))

    def is_served(self, model: str) -> bool:
        """Some worker has it in memory."""
        return any(worker.info.model == model for worker in self._workers.values())

    def waiting_for(self, model: str) -> Iterator[Sequence]:
        """In the order in which they would be admitted."""
        return (sequence for sequence in self._waiting if sequence.model == model)

    def keep_loaded(self, model: str, keep_alive_s: float | None, told: Told) -> None:
        """The model is to stay so long after its last request, and to come into memory unless that is no time at all.

        Raises a RequestError for a model that no worker has.
        """
        model = self.info(model).model
        self._keep_alive.wish(model, keep_alive_s)
        if keep_alive_s == 0 or self.is_served(model):
            told(None)
        else:
            self.unloaded.wait_for(model, told)

    def attached(self, info: WorkerInfo) -> None:
        """A worker has come with its model in memory."""
        if (timer := self._ends_of_grace.pop(info.model, None)) is not None:
            timer.cancel()
        self._keep_alive.restart(info.model)
        self.unloaded.loaded(info)

    def attach_unloaded(self, info: WorkerInfo, link: LoadLink) -> UnloadedWorker:
        """A worker without a model opened a stream."""
        return self.unloaded.attach(info, link)

    def dismiss_unloaded(self) -> None:
        """The workers without a model that nobody waits for."""
        for worker in self.unloaded:
            model = worker.info.model
            if not self.unloaded.is_awaited(model) and next(self.waiting_for(model), None) is None:
                self.unloaded.dismiss(worker)

    def detached(self, model: str) -> None:
        """A worker that had it in memory is gone."""
        if not self.is_served(model):
            timer = self._timers.call_later(self._grace_s, lambda: self._fail_orphans(model))
            self._ends_of_grace[model] = timer

    def move(self) -> None:
        """Out of memory where nobody uses them any more, back into it where somebody waits."""
        for worker in list(self._workers.values()):
            model = worker.info.model
            if worker.phase is WorkerPhase.SERVING and worker.is_idle and self._keep_alive.is_over(model):
                worker.link.send_unload()
                self.unloaded.expect(worker.info)
                self._detach(worker)
                if not self.is_served(model):
                    self._keep_alive.forget_wish(model)
        for model in {worker.info.model for worker in self.unloaded}:
            is_awaited = self.unloaded.is_awaited(model) or next(self.waiting_for(model), None) is not None
            if is_awaited and not self.is_served(model):
                self.unloaded.load(model)

    def _fail_orphans(self, model: str) -> None:
        del self._ends_of_grace[model]
        if not self.unloaded.has(model):
            self._fail_waiting(model, self.unloaded.nobody_came(model))

    def _fail_waiting(self, model: str, error: RequestError) -> None:
        """Unless a worker serves it after all."""
        if not self.is_served(model):
            self._fail(list(self.waiting_for(model)), error)
