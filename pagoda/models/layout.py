"""Where the store keeps what, under HOME/models: names of models as directories, and places that no model's name can reach.

    <name>/<tag>/manifest.json    a model, its file or checkpoint beside it; .partial/ is what an interrupted download left
    blobs/sha256-<hex>            uploaded files
    digests.json                  digests of files, remembered
    .scratch/, .lock, .pulls/     work in progress, and what processes exclude each other by

A directory is a model's name with `/` as `%2f`. The names that the store uses itself have their first letter written as `%xx`. No
name has a `%` or begins with a dot, so no two models share a directory and no model has the place of something else. Earlier
versions wrote `/` as `--`: what they left is found, and moved when the store is changed next.
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

logger = logging.getLogger(__name__)


def encode_name(name: str) -> str:
    """The directory of a model, relative to the store's. `name` must be canonical, with its tag."""
    model, _, tag = name.partition(":")
    if model in _RESERVED:
        model = f"%{ord(model[0]):02x}{model[1:]}"
    return f"{model.replace('/', '%2f')}/{tag}"


def decode_name(directory: str) -> str:
    """The name whose directory this is; what comes out for another directory is no name of a model."""
    return ":".join(map(unquote, directory.split("/")))


class StoreLayout:
    def __init__(self, home: Path) -> None:
        self.models = home / "models"
        self.blobs = self.models / "blobs"
        self.digests = self.models / "digests.json"
        self.scratch = self.models / ".scratch"

    def directory(self, name: str) -> Path:
        """Where a model is put. `name` must be canonical."""
        return self.models / encode_name(name)

    def find(self, name: str) -> Path | None:
        """The manifest of a model that is here, which may be damaged."""
        # The first place twice: the model may have been moved there just now.
        for directory in (self.directory(name), self._old_directory(name), self.directory(name)):
            if is_there(directory / MANIFEST) and self.name_at(directory) == name:
                return directory / MANIFEST
        return None

    def name_at(self, directory: Path) -> str:
        """The name of the model in this directory: what the place says, unless an earlier version put another one there."""
        if self._is_ambiguous(directory):
            stored = _stored_name(directory / MANIFEST)
            if stored is not None and self._old_directory(stored) == directory:
                return stored
        return decode_name(f"{directory.parent.name}/{directory.name}")

    def manifests(self) -> list[Path]:
        """Of all that may be models, in order. Never raises: what cannot be listed or is gone meanwhile has none."""
        return sorted(tag / MANIFEST for tag in self._tags() if is_there(tag / MANIFEST))

    def partials(self) -> list[Path]:
        """What interrupted downloads left."""
        return [tag / PARTIAL for tag in self._tags() if is_there(tag / PARTIAL)]

    def changing(self) -> AbstractContextManager[None]:
        """A lock of all processes, for as long as it takes to move directories."""
        return file_lock(self.models / ".lock")

    def pulling(self, directory: Path, *, wait: bool = True) -> AbstractContextManager[None]:
        """A lock for as long as a model is being fetched into its directory. Raises BlockingIOError where it must not wait."""
        return file_lock(self.models / ".pulls" / f"{directory.parent.name}:{directory.name}.lock", wait=wait)

    def move_old_directories(self) -> None:
        """Each to where its model belongs by now. The caller must hold `changing`."""
        for directory in self._tags():
            target = self.directory(self.name_at(directory)) if self._is_ambiguous(directory) else directory
            if target != directory and is_there(directory / MANIFEST) and not is_there(target / MANIFEST):
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(directory, target)
                remove_if_empty(directory.parent)

    def _tags(self) -> list[Path]:
        return [tag for name in _subdirectories(self.models) for tag in _subdirectories(name)]

    def _old_directory(self, name: str) -> Path:
        model, _, tag = name.partition(":")
        return self.models / model.replace("/", "--") / tag

    def _is_ambiguous(self, directory: Path) -> bool:
        """Whether an earlier version may have put another model there than the place says."""
        return "--" in directory.parent.name or directory.parent.name in _RESERVED


def is_there(path: Path) -> bool:
    """Also what may not be looked at: reading it says why."""
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
    logger.warning("directory of the store cannot be listed", extra={"directory": str(directory), "reason": reason})


def _stored_name(manifest: Path) -> str | None:
    try:
        name = json.loads(manifest.read_bytes())["name"] if manifest.is_file() else None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) else None


def _subdirectories(directory: Path) -> list[Path]:
    """Without those that begin with a dot, which no model does. A directory that is gone has none."""
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and _is_directory(entry)]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            _tell_once(directory, str(error))
        return []


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere, round in a circle or to where we may not look hides no other entry."""
    try:
        return entry.is_dir()
    except OSError as error:
        _tell_once(Path(entry.path), str(error))
        return False
