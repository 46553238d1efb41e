"""Which models the workers serve, in memory or to be loaded: a view that changes nothing."""

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
        """Return what is known of the model that a request names; for no name, of the only one that workers were started with.

        It is that of the worker with the most pages for it, under the name by which its files are in memory or waited for, if
        there are several. Raises a RequestError for a model that is not served.
        """
        if not self._workers and not self._stores:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        return self.info_by_name(self._name_in_use(model or self._only_model()))

    def info_by_name(self, model: str) -> WorkerInfo:
        """Return what is known of the model of this name and no other."""
        if having := list(self._having(model)):
            return max(having, key=lambda worker: worker.info.limits.num_pages).info
        for _, info in self._stores.able_to_load(model):
            return info
        raise ModelNotServedError(f"model {model!r} is not served; served: {some_names(sorted(self.names))}")

    @property
    def names(self) -> set[str]:
        return self._stores.model_names | {worker.info.model for worker in self._workers.values()}

    def num_able(self, model: str) -> int:
        """Return how many workers can load it, and have not."""
        having = {worker.info.worker_id for worker in self._having(model)}
        return sum(worker_id not in having for worker_id, _ in self._stores.able_to_load(model))

    def is_loadable(self, model: str) -> bool:
        """Whether some worker can load it."""
        return any(True for _ in self._stores.able_to_load(model))

    def is_served(self, model: str) -> bool:
        """Whether some worker has it in memory."""
        return any(True for _ in self._having(model))

    @property
    def in_memory(self) -> set[str]:
        return {worker.info.model for worker in self._workers.values() if self.is_current(worker)}

    def is_current(self, worker: AttachedWorker) -> bool:
        """Whether the worker stays, and what it has in memory is what the files are now."""
        return worker.phase is WorkerPhase.SERVING and not self._stores.is_outdated(worker.info)

    def _having(self, model: str) -> Iterator[AttachedWorker]:
        """Return the workers that have it in memory, and not only for sequences that run there already."""
        having = (worker for worker in self._workers.values() if worker.info.model == model)
        return (worker for worker in having if self.is_current(worker))

    def _name_in_use(self, model: str) -> str:
        """Return the name to serve it under: two names of the same files are one model, or they would take turns in a worker."""
        digests = {info.model_digest for _, info in self._stores.able_to_load(model)}
        if self.is_served(model) or not digests:
            return model
        in_memory = (worker.info for worker in self._workers.values() if self.is_current(worker))
        waited_for = (info for other in sorted(self._waiting.models) for _, info in self._stores.able_to_load(other))
        infos = chain(in_memory, waited_for)
        return next((info.model for info in infos if info.model_digest in digests), model)

    def _only_model(self) -> str:
        """Return the only model that workers were started with: what else they could load is not meant where no name is given."""
        names = sorted(self._stores.home_models or self.names)
        if len(names) == 1:
            return names[0]
        raise InvalidRequestError(f"name a model, there are several: {', '.join(names)}")
