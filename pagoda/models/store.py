"""The models on this machine: what there is, what each is, and how one gets here.

Layout: HOME/models/<name>/<tag>/manifest.json and the model's file beside it, or .partial/ with what an interrupted download
left; HOME/models/digests.json. A path to a GGUF file or a safetensors directory is a model too and stays where it is. Knows
nothing about tensors or text.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pagoda.models.catalogue import CATALOGUE, CatalogueEntry, find_entry, normalize_name
from pagoda.models.description import checkpoint_files, describe
from pagoda.models.digest import DigestCache, write_atomically
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.file_lock import file_lock
from pagoda.models.model import Model
from pagoda.models.safetensors_file import read_json
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

MANIFEST = "manifest.json"
PARTIAL = ".partial"
ABANDONED_AFTER_S = 14 * 24 * 3600

logger = logging.getLogger(__name__)


class ModelStore:
    def __init__(self, home: Path, *, catalogue: Sequence[CatalogueEntry] = CATALOGUE) -> None:
        self._catalogue = catalogue
        self.directory = home / "models"
        self._digests = DigestCache(self.directory / "digests.json")
        self._described: dict[tuple[object, ...], Model] = {}

    def list(self) -> list[Model]:
        """The models in the store, by name. One that cannot be read is left out, with a line in the log."""
        models = []
        for manifest in sorted(self.directory.glob(f"*/*/{MANIFEST}")):
            try:
                models.append(self.read_manifest(manifest))
            except ModelError as error:
                logger.warning("model cannot be read", extra={"manifest": str(manifest), "reason": str(error)})
        return models

    def get(self, name_or_path: str) -> Model:
        """A model of the store by its name or alias, or one anywhere on disk by its path."""
        if name_or_path.startswith("hf:"):
            raise ModelNotFoundError(
                f"{name_or_path}: the Hugging Face hub comes later; download the model, give its path"
            )
        path = Path(name_or_path).expanduser()
        if _is_path(name_or_path) or path.suffix == ".gguf":
            return self._get_path(path)
        entry = find_entry(name_or_path, self._catalogue)
        manifest = self.manifest_path(self.canonical_name(name_or_path))
        if manifest.exists():
            return self.read_manifest(manifest)
        if path.exists():
            return self._get_path(path)
        if entry is not None:
            raise ModelNotFoundError(
                f"the model {entry.name!r} is not on this machine; fetch it: pagoda pull {entry.name}"
            )
        raise ModelNotFoundError(f"the model {name_or_path!r} is unknown (known: {', '.join(self._known_names())})")

    def pull(self, name: str, on_progress: Callable[[Progress], None]) -> Model:
        """Fetch a model of the catalogue, unless it is here already, from where an earlier attempt was interrupted.

        Several processes may try at once: one does it.
        """
        entry = None if _is_path(name) or name.startswith("hf:") else find_entry(name, self._catalogue)
        if entry is None:
            return self.get(name)
        manifest = self.manifest_path(entry.name)
        if not manifest.exists():
            with file_lock(manifest.parent / ".lock"):
                if not manifest.exists():
                    self._fetch(entry, manifest, on_progress)
        return self.read_manifest(manifest)

    def _fetch(self, entry: CatalogueEntry, manifest: Path, on_progress: Callable[[Progress], None]) -> None:
        self._forget_abandoned(except_for=manifest.parent)
        fetch(entry, manifest.parent / entry.file_name, manifest.parent / PARTIAL, on_progress)
        content = {"name": entry.name, "file": entry.file_name, "sources": entry.sources, "sha256": entry.sha256}
        write_atomically(manifest, json.dumps(content, indent=1))

    def _forget_abandoned(self, except_for: Path) -> None:
        """Downloads that nobody goes on with would fill the disk unseen."""
        for partial in self.directory.glob(f"*/*/{PARTIAL}"):
            with suppress(OSError):  # another process is at it
                if partial.parent != except_for and time.time() - _last_changed(partial) > ABANDONED_AFTER_S:
                    with file_lock(partial.parent / ".lock", wait=False):
                        shutil.rmtree(partial, ignore_errors=True)

    def canonical_name(self, name: str) -> str:
        """The one spelling of a name: in lower case, with its tag, and the catalogue's where that has an alias for it."""
        entry = self.catalogue_entry(name)
        return entry.name if entry else normalize_name(name)

    def catalogue_entry(self, name: str) -> CatalogueEntry | None:
        return find_entry(name, self._catalogue)

    def manifest_path(self, canonical_name: str) -> Path:
        model, _, tag = canonical_name.partition(":")
        return self.directory / model.replace("/", "--") / tag / MANIFEST

    def read_manifest(self, manifest: Path) -> Model:
        content = read_json(manifest)
        name, file_name = content.get("name"), content.get("file")
        if not isinstance(name, str) or not isinstance(file_name, str) or Path(file_name).name != file_name:
            raise ModelFormatError(f"{manifest} is damaged; delete its directory and fetch the model again")
        path = manifest.parent / file_name
        if not path.exists():
            raise ModelFormatError(f"{path} is missing; delete its directory and fetch the model again")
        return self._describe(name, path)

    def _get_path(self, path: Path) -> Model:
        if not path.exists():
            raise ModelNotFoundError(f"there is no file or directory {str(path)!r}")
        path = path.resolve()
        return self._describe(path.stem if path.is_file() else path.name, path)

    def _describe(self, name: str, path: Path) -> Model:
        """Reading a description takes tens of milliseconds, so it is kept for as long as the files do not change."""
        files = [path] if path.is_file() else checkpoint_files(path)
        key = (name, *((str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files))
        if key not in self._described:
            digest = self._digests.file_digest(path) if path.is_file() else self._digests.files_digest(files)
            size_bytes = sum(file.stat().st_size for file in files)
            self._described[key] = describe(name, path, digest, size_bytes)
        return self._described[key]

    def _known_names(self) -> Sequence[str]:
        return sorted({model.name for model in self.list()} | {entry.name for entry in self._catalogue})


def _last_changed(directory: Path) -> float:
    return max(path.stat().st_mtime for path in (directory, *directory.iterdir()))


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) or text in (".", "..")
