"""The layout of the store under HOME/models: the directories of models, and the store's own files.

    <name>/<tag>/manifest.json    a model, with its file or checkpoint beside it; .partial/ is an interrupted download
    blobs/sha256-<hex>            uploaded files
    digests.json                  cached digests of files
    .scratch/, .lock, .pulls/     work in progress, and locks between processes

A model's directory is its name with `/` written as `%2f`, and the colon of a port as `%3a`. If a model has a name that the store
itself uses, the first letter is written as `%xx`. No name contains `%` or begins with a dot. So no two models share a directory,
and no model collides with the store's own files. Earlier versions wrote `/` as `--`, and `library/` in names: their directories are
found, and moved when the store is next changed.
"""

import errno
import json
import logging
import os
from contextlib import AbstractContextManager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from pagoda.process.file_lock import file_lock

MANIFEST = "manifest.json"
PARTIAL = ".partial"
_RESERVED = ("blobs", "digests.json")
_LIBRARY = "library/"

logger = logging.getLogger(__name__)


def encode_name(name: str) -> str:
    """Return the directory of a model, relative to the store's. `name` must be canonical, with its tag."""
    model, _, tag = name.rpartition(":")
    if model in _RESERVED:
        model = f"%{ord(model[0]):02x}{model[1:]}"
    return f"{model.replace('/', '%2f').replace(':', '%3a')}/{tag}"


def decode_name(directory: str) -> str:
    """Return the name of the model in a directory. For a directory that is not a model's, the result is not a valid name."""
    return ":".join(map(unquote, directory.split("/"))).removeprefix(_LIBRARY)


class StoreLayout:
    """Paths and locks of one store."""

    def __init__(self, home: Path) -> None:
        self.models = home / "models"
        self.blobs = self.models / "blobs"
        self.digests = self.models / "digests.json"
        self.scratch = self.models / ".scratch"

    def directory(self, name: str) -> Path:
        """Return the directory of a model. `name` must be canonical."""
        return self.models / encode_name(name)

    def find(self, name: str) -> Path | None:
        """Return the manifest of a model in the store, which may be damaged, or None if the model is not in the store."""
        # The new directory is checked again at the end, because the model may be moved there during the search.
        old = (self._old_directory(name), self.directory(_LIBRARY + name))
        for directory in (self.directory(name), *old, self.directory(name)):
            if is_there(directory / MANIFEST) and self.name_at(directory) == name:
                return directory / MANIFEST
        return None

    def name_at(self, directory: Path) -> str:
        """Return the name of the model in this directory. In one of an earlier version, the manifest may have another name."""
        if self._is_ambiguous(directory):
            stored = _stored_name(directory / MANIFEST)
            if stored is not None and self._old_directory(stored) == directory:
                return stored
        return decode_name(f"{directory.parent.name}/{directory.name}")

    def manifests(self) -> list[Path]:
        """Return the manifests of all possible models, sorted. Never raises: directories that cannot be listed are left out."""
        return sorted(tag / MANIFEST for tag in self._tags() if is_there(tag / MANIFEST))

    def partials(self) -> list[Path]:
        """Return the directories of interrupted downloads."""
        return [tag / PARTIAL for tag in self._tags() if is_there(tag / PARTIAL)]

    def changing(self) -> AbstractContextManager[None]:
        """Return the lock between processes for moving directories, which is held briefly."""
        return file_lock(self.models / ".lock")

    def pulling(self, directory: Path, *, wait: bool = True) -> AbstractContextManager[None]:
        """Return the lock for fetching a model into its directory. With `wait=False`, a held lock raises BlockingIOError."""
        return file_lock(self.lock_of(directory), wait=wait)

    def lock_of(self, directory: Path) -> Path:
        return self.models / ".pulls" / f"{directory.parent.name}:{directory.name}.lock"

    def move_old_directories(self) -> None:
        """Move directories of earlier versions to their current places. The caller must hold `changing`."""
        for directory in self._tags():
            target = self.directory(self.name_at(directory)) if self._is_ambiguous(directory) else directory
            if target != directory and is_there(directory / MANIFEST) and not is_there(target / MANIFEST):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(directory, target)
                remove_if_empty(directory.parent)

    def _tags(self) -> list[Path]:
        return [tag for name in subdirectories(self.models) for tag in subdirectories(name)]

    def _old_directory(self, name: str) -> Path:
        model, _, tag = name.rpartition(":")
        return self.models / model.replace("/", "--") / tag

    def _is_ambiguous(self, directory: Path) -> bool:
        """Return True if an earlier version may have put another model into the directory than its path says."""
        place = directory.parent.name
        return "--" in place or place in _RESERVED or unquote(place).startswith(_LIBRARY)


def is_there(path: Path) -> bool:
    """Return True if the path exists, also if it is not accessible: reading it then gives the reason."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def remove_if_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


@cache
def _tell_once(directory: Path, reason: str) -> None:
    logger.warning("store directory not readable", extra={"directory": str(directory), "reason": reason})


def _stored_name(manifest: Path) -> str | None:
    try:
        name = json.loads(manifest.read_bytes())["name"] if manifest.is_file() else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def subdirectories(directory: Path) -> list[Path]:
    """Return the subdirectories that do not begin with a dot, or none if the directory does not exist."""
    return [Path(entry.path) for entry in entries(directory) if _is_directory(entry)]


def entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return what is in a directory and does not begin with a dot. A directory that cannot be listed is logged once."""
    try:
        with os.scandir(directory) as found:
            return [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            _tell_once(directory, str(error))
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Return True for a directory. A broken, circular or inaccessible link is logged and does not hide other entries."""
    try:
        return entry.is_dir()
    except OSError as error:
        _tell_once(Path(entry.path), str(error))
        return False
