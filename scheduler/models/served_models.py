"""A read-only view of the models that the workers serve, loaded or loadable."""

from collections.abc import Iterator
from itertools import chain

from pagoda.models.errors import some_names
from scheduler.context import SchedulerContext
from scheduler.errors import InvalidRequestError, ModelNotServedError, UnavailableError
from scheduler.models.worker_stores import WorkerStores
from scheduler.steps.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_info import WorkerInfo


class ServedModels:
    def __init__(self, context: SchedulerContext, stores: WorkerStores) -> None:
        self._workers = context.workers
        self._waiting = context.waiting
        self._stores = stores

    def info_for_request(self, model: str) -> WorkerInfo:
        """Return the properties of the model that a request names. No name means the only model that workers were started with.

        If its files have several names, the name under which they are loaded or wanted is used. The properties are those of the
        worker with the most pages. Raises a RequestError if the model is not served.
        """
        if not self._workers and not self._stores:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        return self.info_by_name(self._name_in_use(model or self._only_model()))

    def info_by_name(self, model: str) -> WorkerInfo:
        """Return the properties of the model with exactly this name."""
        if having := list(self._having(model)):
            return max(having, key=lambda worker: worker.info.limits.num_pages).info
        for _, info in self._stores.able_to_load(model):
            return info
        raise ModelNotServedError(f"model {model!r} is not served; served: {some_names(sorted(self.names))}")

    @property
    def names(self) -> set[str]:
        return self._stores.model_names | {worker.info.model for worker in self._workers.values()}

    def num_able(self, model: str) -> int:
        """Return the number of workers that can load the model and do not have it loaded."""
        having = {worker.info.worker_id for worker in self._having(model)}
        return sum(worker_id not in having for worker_id, _ in self._stores.able_to_load(model))

    def is_loadable(self, model: str) -> bool:
        """Return True if a worker can load the model."""
        return any(True for _ in self._stores.able_to_load(model))

    def is_served(self, model: str) -> bool:
        """Return True if a worker has the model loaded."""
        return any(True for _ in self._having(model))

    @property
    def in_memory(self) -> set[str]:
        return {worker.info.model for worker in self._workers.values() if self.is_current(worker)}

    def is_current(self, worker: AttachedWorker) -> bool:
        """Return True if the worker stays, and its loaded model has not been replaced in the store."""
        return worker.phase is WorkerPhase.SERVING and not self._stores.is_outdated(worker.info)

    def _having(self, model: str) -> Iterator[AttachedWorker]:
        """Return the workers that have the model loaded and may admit new sequences."""
        having = (worker for worker in self._workers.values() if worker.info.model == model)
        return (worker for worker in having if self.is_current(worker))

    def _name_in_use(self, model: str) -> str:
        """Return the name under which to serve a model. Two names of the same files are one model; otherwise a worker would
        load them in turn."""
        digests = {info.model_digest for _, info in self._stores.able_to_load(model)}
        if self.is_served(model) or not digests:
            return model
        in_memory = (worker.info for worker in self._workers.values() if self.is_current(worker))
        waited_for = (info for other in sorted(self._waiting.models) for _, info in self._stores.able_to_load(other))
        infos = chain(in_memory, waited_for)
        return next((info.model for info in infos if info.model_digest in digests), model)

    def _only_model(self) -> str:
        """Return the only model that workers were started with. Other loadable models need a name in the request."""
        names = sorted(self._stores.home_models or self.names)
        if len(names) == 1:
            return names[0]
        raise InvalidRequestError(f"model is required, because there are several: {', '.join(names)}")
