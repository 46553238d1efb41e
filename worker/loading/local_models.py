"""The models that this worker can load, named in its settings or found in its store, described for the scheduler.

Only descriptions are read, so that a worker without a model needs neither weights nor torch.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pagoda.models.errors import ModelError
from pagoda.models.formats.gguf_parts import part_paths
from pagoda.models.memory_need import MemoryNeed, memory_need
from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from pagoda.process.progress_file import write_progress
from pagoda.process.resources import machine_available_bytes
from pagoda.wire.load_progress import LoadProgress
from pagoda.wire.loadable_models import LoadableModel, LoadableModels
from worker.settings import WorkerSettings

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LocalModels:
    def __init__(self, settings: WorkerSettings) -> None:
        """Find the models named in the settings. Raises ModelError if one of them does not exist."""
        self._settings = settings
        self._store = ModelStore(settings.home)
        self._named = {self._store.get(given).name: given for given in settings.models}
        """The setting that gave each model, by model name; it may be a path."""
        self._models = {name: self._store.get(given) for name, given in self._named.items()}
        self.home_model = None if settings.start_empty else next(iter(self._models.values()))
        """The model to load at start; None if the worker starts empty."""
        self._needs: dict[str, MemoryNeed] = {}
        """What each model needs, by digest."""
        self.load_progress: LoadProgress | None = None
        """Progress of the model that is being loaded. Written by the thread that loads."""
        self._seen: object = None

    def find(self, name: str) -> Model:
        """Return the model as its files are now. Raises ModelError."""
        return self._store.get(self._named.get(name, name))

    def refresh(self) -> bool:
        """Read the store again and return True if anything has changed.

        Called in a thread: a new model's files are read to the end, once.
        """
        seen = self._look()
        if self._seen == (seen, self._look_outside()):
            return False
        models = {model.name: model for model in self._store.list()} | self._read_named()
        changed = models != self._models
        self._models = models
        self._seen = (seen, self._look_outside())  # Set only after reading, so that a read that failed is repeated.
        return changed

    def max_model_len(self, model: Model) -> int:
        longest = model.config.max_position
        return min(self._settings.max_model_len or longest, longest)

    def record_weights(self, model: Model, weights_bytes: int) -> None:
        """Replace the estimate of the model's weights by what they took when they were loaded."""
        self._needs[model.digest] = replace(self.memory_need(model), weights_bytes=weights_bytes)

    def memory_need(self, model: Model) -> MemoryNeed:
        """Return the least memory with which this worker can serve the model. The model's headers are read once."""
        if model.digest not in self._needs:
            settings = self._settings
            self._needs[model.digest] = memory_need(
                model,
                numerics=settings.numerics_in_use,
                kv_memory=settings.kv_memory,
                max_model_len=self.max_model_len(model),
            )
        return self._needs[model.digest]

    @contextmanager
    def loading(self, model: Model) -> Iterator[Callable[[int, int], None]]:
        """Yield a function that records the progress of the model's load, until the block ends."""

        write = write_progress(self._settings.progress_file) if self._settings.progress_file else None

        def record(completed_bytes: int, total_bytes: int) -> None:
            if write is not None:
                write(completed_bytes, total_bytes)
            self.load_progress = LoadProgress(completed_bytes=completed_bytes, total_bytes=total_bytes)

        record(0, model.size_bytes)
        try:
            yield record
        finally:
            self.load_progress = None

    @property
    def available_bytes(self) -> int | None:
        """Memory available for models, in bytes; None for a GPU, whose memory only a process that uses it can measure."""
        return machine_available_bytes() if self._settings.device == "cpu" else None

    def loadable_models(self) -> LoadableModels:
        """Return the models found by the last `refresh`."""
        return LoadableModels(
            models=tuple(self._described(model) for _, model in sorted(self._models.items())),
            host_id=_host_id(self._settings.device),
            available_bytes=self.available_bytes,
            home_model=self.home_model.name if self.home_model else None,
            checks_memory=self._settings.check_memory,
        )

    def _described(self, model: Model) -> LoadableModel:
        max_model_len = self.max_model_len(model)
        return LoadableModel(
            name=model.name,
            digest=model.digest,
            page_size=self._settings.page_size,
            max_model_len=max_model_len,
            vocab_size=model.config.vocab_size,
            needed_bytes=self.memory_need(model).total_bytes,
        )

    def _read_named(self) -> dict[str, Model]:
        """Return the models named in the settings, without those whose files are gone."""
        models = {}
        for name in self._named:
            try:
                models[name] = self.find(name)
            except ModelError:
                continue
        return models

    def _look(self) -> object:
        """Return a value that differs whenever the store, or Ollama's, has changed; it costs a few system calls."""
        files = [*self._store.manifests(), *map(Path, self._named.values())]
        return [(str(file), *state) for file in files if (state := _state(file)) is not None]

    def _look_outside(self) -> object:
        """Return the states of the models' files outside the store, which their owner may remove without touching a manifest."""
        places = [model.path for model in self._models.values() if not self._store.is_own(model.path)]
        return [(str(file), _state(file)) for place in places for file in _files(place)]


def _files(place: Path) -> list[Path]:
    """Return the files of the model at a path, as far as they exist."""
    try:
        return sorted(place.iterdir()) if place.is_dir() else part_paths(place)
    except OSError:
        return []


def _state(file: Path) -> tuple[int, int, int] | None:
    """Return a value that differs after the file was replaced, was written or became readable; None if it does not exist."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _host_id(device: str) -> str:
    """Return an id that is equal for processes that share memory: those of one machine, or of one container."""
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{socket.gethostname()}/{boot_id}/{device}"
