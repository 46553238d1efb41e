"""The models on this machine: what there is, what each is, and how one gets here.

Where things are is layout.py's. A path to a GGUF file or a safetensors directory is a model too and stays where it is. The store
may change at any time, by any process: what vanishes while it is read was not there, and what is replaced is read again.
"""

import json
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pagoda.models.catalogue import CATALOGUE, NAME, CatalogueEntry, find_entry, normalize_name
from pagoda.models.digest import DigestCache, file_state, write_atomically
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, ModelSourceError, some_names
from pagoda.models.formats.description import checkpoint_files, describe
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.layout import MANIFEST, PARTIAL, StoreLayout, is_there
from pagoda.models.model import Model
from pagoda.models.scratch import Scratch
from pagoda.models.sources import Progress, Stage, fetch

__all__ = [
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "ModelSourceError",
    "ModelStore",
    "Progress",
    "Stage",
]

ABANDONED_AFTER_S = 14 * 24 * 3600
# A model that is replaced again and again while it is read: so often it is read again.
MAX_READS = 20
MAX_DESCRIBED = 1024

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ModelStore:
    def __init__(self, home: Path, *, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> None:
        self._catalogue = catalogue
        self.layout = StoreLayout(home)
        self.directory = self.layout.models
        self.digests = DigestCache(self.layout.digests)
        self._described: OrderedDict[object, Model] = OrderedDict()
        self._told: dict[Path, str] = {}
        """Why models cannot be read, as far as it is in the log."""

    @property
    def pullable(self) -> Sequence[str]:
        """The names of the catalogue."""
        return [entry.name for entry in self._catalogue]

    def list(self) -> list[Model]:
        """The models in the store, by name. One that cannot be read is left out, and is told of in the log once."""
        models, unreadable = {}, {}
        for manifest in self.layout.manifests():
            try:
                model = self.read_manifest(manifest)
            except ModelNotFoundError:
                continue
            except Exception as error:  # Whatever is wrong with one model, the others can be listed.
                unreadable[manifest] = str(error) or repr(error)
            else:
                models[model.name] = model
        for manifest, reason in unreadable.items():
            if self._told.get(manifest) != reason:
                logger.warning("model cannot be read", extra={"manifest": str(manifest), "reason": reason})
        self._told = unreadable
        return [models[name] for name in sorted(models)]

    def get(self, name_or_path: str) -> Model:
        """A model of the store by its name or alias, or one anywhere on disk by its path."""
        if name_or_path.startswith("hf:"):
            raise ModelNotFoundError(
                f"{name_or_path}: the Hugging Face hub comes later; download the model, give its path"
            )
        path = Path(name_or_path)
        if _is_path(name_or_path) or path.suffix == ".gguf":
            return self._get_path(path)
        entry = find_entry(name_or_path, self._catalogue)
        if (manifest := self.layout.find(self.canonical_name(name_or_path))) is not None:
            return self.read_manifest(manifest)
        if path.exists():
            return self._get_path(path)
        if entry is not None:
            raise ModelNotFoundError(
                f"the model {entry.name!r} is not on this machine; fetch it: pagoda pull {entry.name}"
            )
        raise ModelNotFoundError(f"the model {name_or_path!r} is unknown (known: {some_names(self._known_names())})")

    def pull(self, name: str, on_progress: Callable[[Progress], None]) -> Model:
        """Fetch a model of the catalogue, unless it is here already, from where an earlier attempt was interrupted.

        Several processes may try at once: one does it.
        """
        entry = None if _is_path(name) or name.startswith("hf:") else find_entry(name, self._catalogue)
        if entry is None:
            return self.get(name)
        if (manifest := self.layout.find(entry.name)) is None:
            with self.layout.pulling(self.layout.directory(entry.name)):
                if (manifest := self.layout.find(entry.name)) is None:
                    manifest = self.layout.directory(entry.name) / MANIFEST
                    self._fetch(entry, manifest, on_progress)
        return self.read_manifest(manifest)

    def _fetch(self, entry: CatalogueEntry, manifest: Path, on_progress: Callable[[Progress], None]) -> None:
        self._forget_abandoned(except_for=manifest.parent)
        fetch(entry, manifest.parent / entry.file_name, manifest.parent / PARTIAL, on_progress)
        content = {"name": entry.name, "file": entry.file_name, "sources": entry.sources, "sha256": entry.sha256}
        write_atomically(manifest, json.dumps(content, indent=1))

    def _forget_abandoned(self, except_for: Path) -> None:
        """Downloads that nobody goes on with would fill the disk unseen."""
        for partial in self.layout.partials():
            with suppress(OSError):  # another process is at it
                if partial.parent != except_for and time.time() - _last_changed(partial) > ABANDONED_AFTER_S:
                    with self.layout.pulling(partial.parent, wait=False):
                        shutil.rmtree(partial, ignore_errors=True)

    def tidy(self) -> None:
        """Delete what processes that died have left, and move what an earlier version has put elsewhere. Never raises: a store that
        cannot be changed is left as it is."""
        scratch = Scratch(self.layout)
        try:
            if self.directory.is_dir():
                scratch.sweep()
                scratch.sweep_old()
                with self.layout.changing():
                    self.layout.move_old_directories()
        except OSError as error:
            logger.info("store cannot be tidied", extra={"reason": str(error)})

    def canonical_name(self, name: str) -> str:
        """The one spelling of a name: in lower case, with its tag, and the catalogue's where that has an alias for it."""
        entry = self.catalogue_entry(name)
        return entry.name if entry else normalize_name(name)

    def catalogue_entry(self, name: str) -> CatalogueEntry | None:
        return find_entry(name, self._catalogue)

    def read_manifest(self, manifest: Path) -> Model:
        """The model as it is now. Raises ModelNotFoundError when it is gone, ModelFormatError when it cannot be read."""
        name = self.layout.name_at(manifest.parent)
        for _ in range(MAX_READS):
            before = _state(manifest)
            if before is None:
                raise ModelNotFoundError(f"model '{name}' not found")
            try:
                found: Model | ModelError = self._read_manifest(name, manifest)
            except ModelError as error:
                found = error
            except OSError as error:
                found = ModelFormatError(f"the model '{name}' cannot be read: {error.strerror or error}")
            if _state(manifest) == before:
                break
        if isinstance(found, ModelError):
            raise found
        return found

    def read_current(self, model: Model, read: Callable[[Model], T]) -> tuple[Model, T]:
        """What `read` makes of the model's files; again, when the model is replaced meanwhile, with the new one.

        Raises ModelNotFoundError when it is gone, and whatever `read` raises for files that stay as they are.
        """
        manifest = model.path.parent / MANIFEST
        if not self._is_own(model.path):
            return model, read(model)
        for _ in range(MAX_READS):
            before = _state(manifest)
            try:
                result = read(model)
            except (OSError, ModelError):
                if before is not None and _state(manifest) == before:
                    raise
                model = self.read_manifest(manifest)
            else:
                model, used = self.read_manifest(manifest), model
                if _state(manifest) == before and model == used:
                    break
        return model, result

    def state_of(self, model: Model) -> object:
        """Another one whenever a model of the store was made again, be it of the same files."""
        return _state(model.path.parent / MANIFEST) if self._is_own(model.path) else None

    def _read_manifest(self, name: str, manifest: Path) -> Model:
        if NAME.fullmatch(name) is None:
            raise ModelFormatError(
                f"{manifest.parent} is no directory for a model: remove it, or move it out of the store"
            )
        next_step = "remove it, and make or fetch it again"
        try:
            file_name = read_json(manifest).get("file")
        except ModelFormatError:
            file_name = None
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelFormatError(f"the manifest of the model '{name}' is damaged; {next_step}")
        if not is_there(path := manifest.parent / file_name):
            raise ModelFormatError(f"the file {file_name} of the model '{name}' is missing; {next_step}")
        return self._describe(name, path)

    def _is_own(self, path: Path) -> bool:
        return path.is_relative_to(self.directory)

    def _get_path(self, path: Path) -> Model:
        try:
            path = path.expanduser()
            if not path.exists():
                raise ModelNotFoundError(f"there is no file or directory {str(path)!r}")
            path = path.resolve()
            return self._describe(path.stem if path.is_file() else path.name, path)
        except (
            OSError,
            RuntimeError,
        ) as error:  # expanduser raises the latter for a user whom the machine does not know
            reason = getattr(error, "strerror", None) or error
            raise ModelFormatError(f"the model {str(path)!r} cannot be read: {reason}") from None

    def _describe(self, name: str, path: Path) -> Model:
        """Reading a description takes tens of milliseconds, so it is kept for as long as the files do not change."""
        files = [path] if path.is_file() else checkpoint_files(path)
        # Of the files and not of the name: a copy shares the bytes of its original.
        key = tuple((file.name if len(files) > 1 else "", *file_state(file.stat())) for file in files)
        if (known := self._described.get(key)) is None:
            digest = self.digests.file_digest(path) if path.is_file() else self.digests.files_digest(files)
            known = describe(name, path, digest, size_bytes=sum(file.stat().st_size for file in files))
            self._described[key] = known
            while len(self._described) > MAX_DESCRIBED:
                self._described.popitem(last=False)
        return replace(known, name=name, path=path)

    def _known_names(self) -> Sequence[str]:
        """Those that can be pulled first."""
        pullable = sorted(self.pullable)
        return [*pullable, *sorted({model.name for model in self.list()}.difference(pullable))]


def _state(manifest: Path) -> tuple[int, int, int] | None:
    """Another one whenever the model is replaced; None when it is gone."""
    try:
        status = manifest.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _last_changed(directory: Path) -> float:
    return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..")
