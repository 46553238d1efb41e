"""What this worker can load: the models it was told of and those of its store, as the scheduler has to know them beforehand.

Reads descriptions only, so that a worker without a model needs neither their weights nor torch.
"""

import socket
from pathlib import Path

from pagoda.models.errors import ModelError
from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from pagoda.process.resources import machine_available_bytes
from pagoda.wire.loadable_models import LoadableModel, LoadableModels
from worker.settings import WorkerSettings

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KV_BYTES_PER_ELEMENT = 2


class LocalModels:
    def __init__(self, settings: WorkerSettings) -> None:
        """Raises ModelError when one of the models that it was told of is not there."""
        self._settings = settings
        self._store = ModelStore(settings.home)
        self._named = {self._store.get(given).name: given for given in settings.models}
        """By name what was given for it, which may be a path."""
        self._models = {name: self._store.get(given) for name, given in self._named.items()}
        self.home_model = None if settings.start_empty else next(iter(self._models.values()))
        """What it begins with."""
        self._seen: object = None

    def find(self, name: str) -> Model:
        """As its files are now. Raises ModelError."""
        return self._store.get(self._named.get(name, name))

    def refresh(self) -> bool:
        """Look again; whether anything is new. Called in a thread: a new model's files have to be read to the end, once."""
        seen = self._look()
        if seen == self._seen:
            return False
        models = {model.name: model for model in self._store.list()} | self._read_named()
        self._seen = seen  # Not before: what could not be read to the end is read again.
        changed = models != self._models
        self._models = models
        return changed

    def max_model_len(self, model: Model) -> int:
        longest = model.config.max_position
        return min(self._settings.max_model_len or longest, longest)

    @property
    def available_bytes(self) -> int | None:
        """None for a device whose memory only those know who compute there."""
        return machine_available_bytes() if self._settings.device == "cpu" else None

    def loadable_models(self) -> LoadableModels:
        """Return them as of the last `refresh`."""
        return LoadableModels(
            models=tuple(self._described(model) for _, model in sorted(self._models.items())),
            host_id=_host_id(self._settings.device),
            available_bytes=self.available_bytes,
            home_model=self.home_model.name if self.home_model else None,
        )

    def _described(self, model: Model) -> LoadableModel:
        max_model_len = self.max_model_len(model)
        config = model.config
        token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_size * _KV_BYTES_PER_ELEMENT
        return LoadableModel(
            name=model.name,
            digest=model.digest,
            page_size=self._settings.page_size,
            max_model_len=max_model_len,
            vocab_size=config.vocab_size,
            needed_bytes=model.size_bytes + max_model_len * token_bytes,
        )

    def _read_named(self) -> dict[str, Model]:
        """Without those that are gone: they can be loaded no more."""
        models = {}
        for name in self._named:
            try:
                models[name] = self.find(name)
            except ModelError:
                continue
        return models

    def _look(self) -> object:
        """Another value whenever the store has changed, at the price of a few system calls."""
        files = [*self._store.layout.manifests(), *map(Path, self._named.values())]
        return [(str(file), *state) for file in files if (state := _state(file)) is not None]


def _state(file: Path) -> tuple[int, int, int] | None:
    """Another one when the file was replaced, written to, or opened to us; None when it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _host_id(device: str) -> str:
    """Processes of one machine, or of one container, share its memory."""
    boot_id = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{socket.gethostname()}/{boot_id}/{device}"
