"""sha256 of model files, remembered by size and modification time, so that only a changed file is read again."""

import hashlib
import json
import os
import re
import stat
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from pagoda.models.errors import ModelFormatError
from pagoda.models.layout import is_there

MAX_REMEMBERED_FILES = 1024

FileState = tuple[int, int, int, int]


def file_state(status: os.stat_result) -> FileState:
    """The same for all names of one file, and another one when it was written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class DigestCache:
    """Kept in one JSON file. Two processes may write it at once: the later wins, which costs hashing once more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_file: OrderedDict[FileState, str] = OrderedDict()
        """Of files that have several names: a copy of a model shares its bytes."""

    def file_digest(self, path: Path) -> str:
        """Return it in hexadecimal digits. Raises ModelFormatError for what is no file: to open a pipe is to wait for ever."""
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFormatError(f"{path.name} is not a file")
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            known, state = self._read(), file_state(status)
            key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
            # As this version writes it, and as earlier ones did. Of two files, both may be written within one tick of the clock.
            digest = known.get(f"{key}|{status.st_ino}", known.get(key))
            if digest is None:
                digest = self._by_file.get(state) or hashlib.file_digest(file, "sha256").hexdigest()
                known = {old: value for old, value in self._read().items() if not self._is_stale(old, path)}
                known[f"{key}|{status.st_ino}"] = digest
                # If it is damaged it is made again.
                write_atomically(self._path, json.dumps(known, indent=1), durable=False)
        self._by_file[state] = digest
        while len(self._by_file) > MAX_REMEMBERED_FILES:
            self._by_file.popitem(last=False)
        return digest

    def files_digest(self, paths: Sequence[Path]) -> str:
        """One digest over several files: their names and digests, in the order of names."""
        lines = "".join(f"{path.name}\n{self.file_digest(path)}\n" for path in sorted(paths))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _is_stale(self, key: str, changed: Path) -> bool:
        """Whether it is of an earlier content of the changed file, or of a file of the store that is gone."""
        path = Path(re.sub(r"(\|\d+){2,3}$", "", key))
        return path == changed.resolve() or (path.is_relative_to(self._path.parent) and not is_there(path))

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}  # not there yet, or damaged: then everything is hashed again
        return content if isinstance(content, dict) else {}


def write_atomically(path: Path, text: str, *, durable: bool = True) -> None:
    """Readers see the old content or the new, never a part of it; where it is durable, also after a crash of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(file.name, path)
