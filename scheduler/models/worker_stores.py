"""The stores of workers: the models that each can load, the free memory of their hosts, and the workers without a model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from pagoda.wire.load_progress import LoadProgress
from scheduler.clock import Timers
from scheduler.worker_info import WorkerInfo, WorkerStore

_NOTHING = WorkerStore()
_NOT_REPORTED = LoadProgress()


class LoadLink(Protocol):
    """The link to one worker without a model. Its methods return immediately."""

    def send_load(self, model: str, digest: str) -> None: ...

    def send_drain(self) -> None: ...


@dataclass(slots=True, eq=False)
class UnloadedWorker:
    """A worker that has no loaded model."""

    worker_id: str
    session_id: int = 0
    link: LoadLink | None = None
    """Link to the worker. None between two streams."""
    loading: str | None = None
    """Model that the worker loads. It stays set until the worker attaches with the model."""
    loading_since_s: float = 0.0
    progress: LoadProgress = _NOT_REPORTED
    """Progress of that load, as last reported."""
    is_lost: bool = False
    """True if the stream broke. The worker may come back."""

    @property
    def is_busy(self) -> bool:
        return self.loading is not None


class WorkerStores:
    """The stores of all attached workers, as last reported, and the workers that have no loaded model."""

    def __init__(self, timers: Timers, *, grace_s: float, on_forgotten: Callable[[WorkerStore], object]) -> None:
        """Create the stores. `on_forgotten` is called with the store of a worker that stays between two streams for `grace_s`."""
        self._timers = timers
        self._grace_s = grace_s
        self._on_forgotten = on_forgotten
        self._stores: dict[str, WorkerStore] = {}
        """Stores by worker id, of attached workers and of workers that are expected back."""
        self._available_bytes: dict[str, int] = {}
        """Free memory by host id."""
        self._exhausted: set[str] = set()
        """Hosts on which a load failed for lack of memory. Their reported memory is ignored until a worker there has unloaded."""
        self._unloaded: dict[str, UnloadedWorker] = {}
        self._num_sessions = 0
        self.unloaded: Mapping[str, UnloadedWorker] = MappingProxyType(self._unloaded)
        """Workers without a model, by worker id."""

    # ---- reports of workers

    def __len__(self) -> int:
        return len(self._stores)

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._stores

    def __getitem__(self, worker_id: str) -> WorkerStore:
        return self._stores.get(worker_id, _NOTHING)

    def set_store(self, worker_id: str, store: WorkerStore) -> None:
        self._stores[worker_id] = store
        self.set_available_bytes(worker_id, store.loadable.available_bytes)

    def set_available_bytes(self, worker_id: str, available_bytes: int | None) -> None:
        if available_bytes is not None:
            self._available_bytes[self[worker_id].loadable.host_id] = available_bytes

    def set_host_exhausted(self, worker_id: str) -> None:
        self._exhausted.add(self[worker_id].loadable.host_id)

    @property
    def available_bytes(self) -> Mapping[str, int]:
        """Free memory by host id, if known."""
        return self._available_bytes | dict.fromkeys(self._exhausted, 0)

    @property
    def model_names(self) -> set[str]:
        return set[str]().union(*(store.infos for store in self._stores.values()))

    @property
    def home_models(self) -> set[str]:
        """The models that workers were started with."""
        return {home for store in self._stores.values() if (home := store.loadable.home_model) is not None}

    def able_to_load(self, model: str) -> Iterator[tuple[str, WorkerInfo]]:
        """Return the ids of the workers that can load the model, each with the model's properties there."""
        return ((key, store.infos[model]) for key, store in self._stores.items() if model in store.infos)

    def is_outdated(self, info: WorkerInfo) -> bool:
        """Return True if the files of the worker's loaded model have been replaced in its store."""
        now = self[info.worker_id].infos.get(info.model)
        return now is not None and now.model_digest != info.model_digest

    def progress_of(self, model: str) -> LoadProgress | None:
        """Return the progress of the worker that is furthest in loading the model, or None if no worker loads it."""
        loading = [worker.progress for worker in self._unloaded.values() if worker.loading == model]
        return max(loading, key=lambda progress: progress.completed_bytes, default=None)

    # ---- with a model, and without

    def attach_loaded(self, worker_id: str, store: WorkerStore) -> UnloadedWorker | None:
        """Add a worker with a loaded model. Return its earlier state without a model, if it had one."""
        self.set_store(worker_id, store)
        return self._unloaded.pop(worker_id, None)

    def detach_loaded(self, worker_id: str) -> None:
        """Remove a worker with a loaded model, unless it unloads and is expected back."""
        if worker_id not in self._unloaded:
            self._stores.pop(worker_id, None)

    def expect_unloaded(self, worker_id: str) -> None:
        """Expect a worker that unloads to come back without a model."""
        self._forget_unless_back(UnloadedWorker(worker_id))

    def attach_unloaded(self, worker_id: str, store: WorkerStore, link: LoadLink) -> UnloadedWorker:
        self._num_sessions += 1
        worker = self._unloaded[worker_id] = UnloadedWorker(worker_id, self._num_sessions, link)
        self.set_store(worker_id, store)
        self._exhausted.discard(store.loadable.host_id)
        return worker

    def detach_unloaded(self, worker: UnloadedWorker, *, is_lost: bool) -> None:
        """Note that the worker's stream ended. If it is not lost, it comes back with the model that it loads."""
        if self._unloaded.get(worker.worker_id) is worker:
            worker.link, worker.is_lost = None, is_lost
            self._forget_unless_back(worker)

    def dismiss_unloaded(self, worker: UnloadedWorker) -> WorkerStore:
        """Tell the worker to end its stream, and do not expect it back. Return its store."""
        if worker.link is not None:
            worker.link.send_drain()
        if self._unloaded.get(worker.worker_id) is not worker:
            return _NOTHING
        del self._unloaded[worker.worker_id]
        return self._stores.pop(worker.worker_id, _NOTHING)

    def _forget_unless_back(self, worker: UnloadedWorker) -> None:
        self._unloaded[worker.worker_id] = worker
        self._timers.call_later(self._grace_s, lambda: self._forget(worker))

    def _forget(self, worker: UnloadedWorker) -> None:
        if self._unloaded.get(worker.worker_id) is worker and worker.link is None:
            del self._unloaded[worker.worker_id]
            self._on_forgotten(self._stores.pop(worker.worker_id, _NOTHING))
