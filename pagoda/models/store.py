"""The models on this machine: functions that list, describe and fetch them.

layout.py defines the paths. A path to a GGUF file or a safetensors directory is a model too and stays in its place. Any process may
change the store at any time: a model that vanishes while it is read counts as missing, and one that is replaced is read again.
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
# How often a model is read again if it is replaced while it is read.
MAX_READS = 20
MAX_DESCRIBED = 1024

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ModelStore:
    """The store of one home."""

    def __init__(self, home: Path, *, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> None:
        self._catalogue = catalogue
        self.layout = StoreLayout(home)
        self.directory = self.layout.models
        self.digests = DigestCache(self.layout.digests)
        self._described: OrderedDict[object, Model] = OrderedDict()
        self._told: dict[Path, str] = {}
        """Reasons, already logged, why models cannot be read."""

    @property
    def pullable(self) -> Sequence[str]:
        """Names of the models in the catalogue."""
        return [entry.name for entry in self._catalogue]

    def list(self) -> list[Model]:
        """Return the models in the store, sorted by name. A model that cannot be read is left out and logged once."""
        models, unreadable = {}, {}
        for manifest in self.layout.manifests():
            try:
                model = self.read_manifest(manifest)
            except ModelNotFoundError:
                continue
            except Exception as error:  # One damaged model must not hide the others.
                unreadable[manifest] = str(error) or repr(error)
            else:
                models[model.name] = model
        for manifest, reason in unreadable.items():
            if self._told.get(manifest) != reason:
                logger.warning("model cannot be read", extra={"manifest": str(manifest), "reason": reason})
        self._told = unreadable
        return [models[name] for name in sorted(models)]

    def get(self, name_or_path: str) -> Model:
        """Return a model of the store by name or alias, or any model on disk by its path. Raises ModelError."""
        if name_or_path.startswith("hf:"):
            raise ModelNotFoundError(
                f"{name_or_path}: the Hugging Face hub is not supported yet; download the model and use its path"
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
                f"model {entry.name!r} is not on this machine; download it: pagoda pull {entry.name}"
            )
        raise ModelNotFoundError(
            f"unknown model {name_or_path!r} (known: {some_names(self._known_names())}); "
            "for a model of the Hugging Face hub or Ollama's registry, download its files and use their path"
        )

    def pull(self, name: str, on_progress: Callable[[Progress], None]) -> Model:
        """Fetch a model of the catalogue unless it is in the store. Resumes an interrupted download.

        If several processes call this at once, one of them downloads and the others wait.
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
        """Delete interrupted downloads that were not resumed for two weeks, because they fill the disk unnoticed."""
        for partial in self.layout.partials():
            with suppress(OSError):  # another process uses it
                if partial.parent != except_for and time.time() - _last_changed(partial) > ABANDONED_AFTER_S:
                    with self.layout.pulling(partial.parent, wait=False):
                        shutil.rmtree(partial, ignore_errors=True)

    def tidy(self) -> None:
        """Delete files of dead processes, and move directories of earlier versions. Never raises: a store that cannot be changed
        stays as it is."""
        scratch = Scratch(self.layout)
        try:
            if self.directory.is_dir():
                scratch.sweep()
                scratch.sweep_old()
                with self.layout.changing():
                    self.layout.move_old_directories()
        except OSError as error:
            logger.info("store cleanup failed", extra={"reason": str(error)})

    def canonical_name(self, name: str) -> str:
        """Return the canonical form of a name: in lower case, with its tag, aliases replaced by the catalogue's name."""
        entry = self.catalogue_entry(name)
        return entry.name if entry else normalize_name(name)

    def catalogue_entry(self, name: str) -> CatalogueEntry | None:
        return find_entry(name, self._catalogue)

    def read_manifest(self, manifest: Path) -> Model:
        """Return the current model. Raises ModelNotFoundError if it was removed, ModelFormatError if it cannot be read."""
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
                found = ModelFormatError(f"model '{name}' cannot be read: {error.strerror or error}")
            if _state(manifest) == before:
                break
        if isinstance(found, ModelError):
            raise found
        return found

    def read_current(self, model: Model, read: Callable[[Model], T]) -> tuple[Model, T]:
        """Return the model and the result of `read` for it. If the model is replaced meanwhile, read the new one.

        Raises ModelNotFoundError if the model was removed, and any error of `read` for files that did not change.
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
        """Return a value that changes whenever a model of the store is made again, even from the same files."""
        return _state(model.path.parent / MANIFEST) if self._is_own(model.path) else None

    def _read_manifest(self, name: str, manifest: Path) -> Model:
        if NAME.fullmatch(name) is None:
            raise ModelFormatError(f"{manifest.parent} has no valid model name; remove it, or move it out of the store")
        next_step = "remove the model, and create or pull it again"
        try:
            file_name = read_json(manifest).get("file")
        except ModelFormatError:
            file_name = None
        if not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelFormatError(f"the manifest of model '{name}' is damaged; {next_step}")
        if not is_there(path := manifest.parent / file_name):
            raise ModelFormatError(f"the file {file_name} of model '{name}' is missing; {next_step}")
        return self._describe(name, path)

    def _is_own(self, path: Path) -> bool:
        return path.is_relative_to(self.directory)

    def _get_path(self, path: Path) -> Model:
        try:
            path = path.expanduser()
            if not path.exists():
                raise ModelNotFoundError(f"no such file or directory: {str(path)!r}")
            path = path.resolve()
            return self._describe(path.stem if path.is_file() else path.name, path)
        except (OSError, RuntimeError) as error:  # expanduser raises RuntimeError for an unknown user
            reason = getattr(error, "strerror", None) or error
            raise ModelFormatError(f"model {str(path)!r} cannot be read: {reason}") from None

    def _describe(self, name: str, path: Path) -> Model:
        """Return the model in the files. Descriptions are cached until the files change, because one takes tens of milliseconds."""
        files = [path] if path.is_file() else checkpoint_files(path)
        # The key has no model name, because a copy shares the files of its original.
        key = tuple((file.name if len(files) > 1 else "", *file_state(file.stat())) for file in files)
        if (known := self._described.get(key)) is None:
            digest = self.digests.file_digest(path) if path.is_file() else self.digests.files_digest(files)
            known = describe(name, path, digest, size_bytes=sum(file.stat().st_size for file in files))
            self._described[key] = known
            while len(self._described) > MAX_DESCRIBED:
                self._described.popitem(last=False)
        return replace(known, name=name, path=path)

    def _known_names(self) -> Sequence[str]:
        """Return the names of all known models, those of the catalogue first."""
        pullable = sorted(self.pullable)
        return [*pullable, *sorted({model.name for model in self.list()}.difference(pullable))]


def _state(manifest: Path) -> tuple[int, int, int] | None:
    """Return a value that changes when the model is replaced, or None if the manifest does not exist."""
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
