"""Which models the workers serve, in memory or to be loaded. Only answers questions; what moves models is in model_loading.py."""

from collections.abc import Iterator, Mapping

from scheduler.errors import InvalidRequestError, ModelNotServedError, UnavailableError
from scheduler.worker_info import WorkerInfo
from scheduler.worker_state import AttachedWorker, WorkerPhase
from scheduler.worker_stores import WorkerStores


class ServedModels:
    def __init__(self, workers: Mapping[str, AttachedWorker], stores: WorkerStores) -> None:
        """`workers` are those that are attached with a model."""
        self._workers = workers
        self._stores = stores

    def info(self, model: str) -> WorkerInfo:
        """Of the worker with the most pages for it; for no name, of the only model that workers were started with.

        Raises a RequestError where there is none.
        """
        if not self._workers and not self._stores:
            raise UnavailableError("no worker is attached", retry_after_s=2.0)
        model = model or self._only_model()
        if having := list(self._having(model)):
            return max(having, key=lambda worker: worker.info.limits.num_pages).info
        for _, loadable in self._stores.able(model):
            return loadable.info
        raise ModelNotServedError(f"model {model!r} is not served; served: {', '.join(sorted(self.names))}")

    @property
    def names(self) -> set[str]:
        return self._stores.names | {worker.info.model for worker in self._workers.values()}

    def num_able(self, model: str) -> int:
        """Workers that can load it, and have not."""
        having = {worker.info.worker_id for worker in self._having(model)}
        return sum(worker_id not in having for worker_id, _ in self._stores.able(model))

    def is_served(self, model: str) -> bool:
        """Some worker has it in memory."""
        return any(True for _ in self._having(model))

    @property
    def in_memory(self) -> set[str]:
        return {worker.info.model for worker in self._workers.values() if self.is_current(worker)}

    def is_current(self, worker: AttachedWorker) -> bool:
        """It stays, and what it has in memory is what the files are now."""
        return worker.phase is WorkerPhase.SERVING and not self._stores.is_outdated(worker.info)

    def _having(self, model: str) -> Iterator[AttachedWorker]:
        """In memory, and not for those alone who have it already."""
        having = (worker for worker in self._workers.values() if worker.info.model == model)
        return (worker for worker in having if self.is_current(worker))

    def _only_model(self) -> str:
        """That workers were started with; what else they could load was not meant by someone who gives no name."""
        names = sorted(self._stores.home_models or self.names)
        if len(names) == 1:
            return names[0]
        raise InvalidRequestError(f"name a model, there are several: {', '.join(names)}")
