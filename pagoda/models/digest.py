"""sha256 of model files, remembered by size and modification time, so that only a changed file is read again.

Knows nothing about models or where they come from.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


class DigestCache:
    """Kept in one JSON file. Two processes may write it at once: the later wins, which costs hashing once more."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def file_digest(self, path: Path) -> str:
        status = path.stat()
        key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        known = self._read()
        if key not in known:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known = {old: value for old, value in self._read().items() if not old.startswith(f"{path.resolve()}|")}
            write_atomically(self._path, json.dumps(known | {key: digest}, indent=1))
            return digest
        return known[key]

    def files_digest(self, paths: Sequence[Path]) -> str:
        """One digest over several files: their names and digests, in the order of names."""
        lines = "".join(f"{path.name}\n{self.file_digest(path)}\n" for path in sorted(paths))
        return hashlib.sha256(lines.encode()).hexdigest()

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}  # not there yet, or damaged: then everything is hashed again
        return content if isinstance(content, dict) else {}


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old content or the new, never a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
