"""What each worker can be told to load, and how much memory is left on their machines: as they have said last.

Knows nothing about what is in memory now, and who wants what.
"""

from collections.abc import Iterator, Mapping

from scheduler.worker_info import LoadableModel, LoadableModels, WorkerInfo

_NOTHING = LoadableModels()


class WorkerStores:
    def __init__(self) -> None:
        self._stores: dict[str, LoadableModels] = {}
        """By worker id: of all that are attached, and of those that are expected back."""
        self._available_bytes: dict[str, int] = {}
        """By host id."""
        self._exhausted: set[str] = set()
        """Hosts where a load failed for want of memory, whatever they say is free, until somebody there has unloaded."""

    def __len__(self) -> int:
        return len(self._stores)

    def __getitem__(self, worker_id: str) -> LoadableModels:
        return self._stores.get(worker_id, _NOTHING)

    def put(self, worker_id: str, store: LoadableModels) -> None:
        self._stores[worker_id] = store
        self.set_available_bytes(worker_id, store.available_bytes)

    def pop(self, worker_id: str) -> LoadableModels:
        return self._stores.pop(worker_id, _NOTHING)

    def set_available_bytes(self, worker_id: str, available_bytes: int | None) -> None:
        if available_bytes is not None:
            self._available_bytes[self[worker_id].host_id] = available_bytes

    def set_exhausted(self, worker_id: str, is_exhausted: bool) -> None:
        change = self._exhausted.add if is_exhausted else self._exhausted.discard
        change(self[worker_id].host_id)

    @property
    def available_bytes(self) -> Mapping[str, int]:
        """By host id, where it is known."""
        return self._available_bytes | dict.fromkeys(self._exhausted, 0)

    @property
    def names(self) -> set[str]:
        return set[str]().union(*(store.models for store in self._stores.values()))

    @property
    def home_models(self) -> set[str]:
        """Those that workers were started with."""
        return {store.home_model for store in self._stores.values() if store.home_model is not None}

    def able(self, model: str) -> Iterator[tuple[str, LoadableModel]]:
        """Worker ids, and what each would load."""
        return ((key, store.models[model]) for key, store in self._stores.items() if model in store.models)

    def is_outdated(self, info: WorkerInfo) -> bool:
        """The files of the model that the worker has in memory have been replaced since."""
        now = self[info.worker_id].models.get(info.model)
        return now is not None and now.info.model_digest != info.model_digest
