"""SHA-256 digests of model files, cached by size and modification time, so that only changed files are read again."""

import hashlib
import json
import os
import re
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

from pagoda.models.errors import ModelFormatError
from pagoda.models.layout import is_there

MAX_REMEMBERED_FILES = 1024

FileState = tuple[int, int, int, int]


def file_state(status: os.stat_result) -> FileState:
    """Return a value that is the same for all names (hard links) of a file and changes when the file is written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class DigestCache:
    """A cache of digests in one JSON file. If two processes write it at once, one entry is lost and computed again later."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_file: OrderedDict[FileState, str] = OrderedDict()
        """Digests by file, because the files of a model and its copies are hard links."""

    def file_digest(self, path: Path) -> str:
        """Return the digest in hexadecimal. Raises ModelFormatError unless it is a regular file, because a pipe would block."""
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFormatError(f"{path.name} is not a file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            known, state = self._read(), file_state(status)
            key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
            # Earlier versions wrote the key without the inode, but two files may be written within one tick of the clock.
            digest = known.get(f"{key}|{status.st_ino}", known.get(key)) or _of_another_link(known, status)
            if digest is None:
                digest = self._by_file.get(state) or hashlib.file_digest(file, "sha256").hexdigest()
                known = {old: value for old, value in self._read().items() if not self._is_stale(old, path)}
                known[f"{key}|{status.st_ino}"] = digest
                # Need not be durable: a damaged cache is rebuilt.
                write_atomically(self._path, json.dumps(known, indent=1), durable=False)
        self._by_file[state] = digest
        while len(self._by_file) > MAX_REMEMBERED_FILES:
            self._by_file.popitem(last=False)
        return digest

    def note(self, path: Path, digest: str) -> None:
        """Remember the digest of a file that was just verified, so that it is not read again."""
        status = path.stat()
        self._by_file[file_state(status)] = digest

    def files_digest(self, paths: Sequence[Path]) -> str:
        """Return one digest of a model's files: the only file's, else a digest of all names and digests, in the order of names."""
        if len(paths) == 1:
            return self.file_digest(paths[0])
        lines = "".join(f"{path.name}\n{self.file_digest(path)}\n" for path in sorted(paths))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _is_stale(self, key: str, changed: Path) -> bool:
        """Return True for an entry of an earlier content of the changed file, or of a file that was removed from the store."""
        path = Path(re.sub(r"(\|\d+){2,3}$", "", key))
        return path == changed.resolve() or (path.is_relative_to(self._path.parent) and not is_there(path))

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}  # missing or damaged: all files are hashed again
        return content if isinstance(content, dict) else {}


def _of_another_link(known: Mapping[str, str], status: os.stat_result) -> str | None:
    """Return the digest that was recorded under another name (hard link) of the file."""
    end = f"|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
    return next((digest for key, digest in known.items() if key.endswith(end)), None) if status.st_nlink > 1 else None


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file so that readers see the old or the new content, with `durable` also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(file.name, path)
