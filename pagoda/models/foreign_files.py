"""Files of models that belong to other programs and stay in their places: in an Ollama store, or in the hub's cache.

A model of our store names them by their absolute path. They are neither linked nor copied, so that their owner can remove them.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pagoda.models.ollama.store import OllamaStore

_CACHED_REPOSITORY = "models--"
_CACHE_FOLDERS = ("snapshots", "blobs")
_MAX_LINKS = 40
_CHECKPOINT_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignPlace:
    """A place of another program where a file is."""

    path: Path
    """Path of the file or directory in that place."""
    place: str
    """Name of the place in messages."""
    repository: str = ""
    """Repository of the hub, if the place is its cache."""


class ForeignFiles:
    """The places of other programs on this machine."""

    def __init__(self, ollama_stores: Sequence[OllamaStore]) -> None:
        self._ollama_stores = ollama_stores

    def find(self, path: Path) -> ForeignPlace | None:
        """Return the place of a file or directory, also if it is only a link to one there. None if no other program owns it."""
        written, resolved = Path(os.path.abspath(path)), Path(os.path.realpath(path))
        for store in self._ollama_stores:
            if store.contains(path):
                inside = written if written.is_relative_to(store.directory) else resolved
                return ForeignPlace(path=inside, place="Ollama's store")
        for each in (written, resolved):
            if (repository := _cached_repository(each)) is not None:
                return ForeignPlace(path=each, place="the hub's cache", repository=repository)
        return None

    def removal_of(self, place: ForeignPlace) -> str:
        """Return how to remove the file, as the end of a sentence."""
        if place.repository:
            return f"hf cache rm model/{place.repository}"
        names = [name for store in self._ollama_stores for name in store.users_of(place.path)]
        if names:
            return f"ollama rm {' '.join(names)}"
        return "restart Ollama, which deletes the files that none of its models uses"

    def digest_of(self, path: Path) -> str | None:
        """Return the SHA-256 in the name of a blob of Ollama, which Ollama has verified, or of a link to one.

        Return None for any other file.
        """
        digests = (store.digest_of(each) for each in _links(path) for store in self._ollama_stores)
        return next((digest for digest in digests if digest is not None), None)

    def find_common(self, files: Mapping[str, Path]) -> Path | None:
        """Return the GGUF file, or the directory of the checkpoint, if all of a model's files are in places of other programs."""
        places = {name: self.find(path) for name, path in files.items()}
        paths = [place.path for _, place in sorted(places.items()) if place is not None]
        if len(paths) < len(files) or not paths:
            return None
        is_checkpoint = any(name.endswith(_CHECKPOINT_SUFFIX) for name in files)
        if len(files) == 1 and not is_checkpoint:
            return paths[0]
        if len({path.parent for path in paths}) > 1:
            return None
        if is_checkpoint:
            return paths[0].parent
        # The parts of a GGUF model are found by their names.
        return paths[0] if {path.name for path in paths} == files.keys() else None


def _links(path: Path) -> Iterator[Path]:
    """Yield the path and, while it is a link, the path that it links to. Blobs of Ollama may be links to another disk, too."""
    for _ in range(_MAX_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = path.parent / path.readlink()


def _cached_repository(path: Path) -> str | None:
    """Return ORG/NAME for a path in the hub's cache: models--ORG--NAME/snapshots/COMMIT/FILE or models--ORG--NAME/blobs/ETAG."""
    for folder, below in pairwise(path.parts):
        if folder.startswith(_CACHED_REPOSITORY) and below in _CACHE_FOLDERS:
            return folder.removeprefix(_CACHED_REPOSITORY).replace("--", "/")
    return None
