"""Blobs: files uploaded for models that are created later, named by their SHA-256."""

import hashlib
import os
import re
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG
from types import TracebackType
from typing import Self

from pagoda.models.errors import ModelFormatError, ModelNotFoundError
from pagoda.models.layout import StoreLayout
from pagoda.models.scratch import Scratch, writing

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class BlobStore:
    """The blobs of one home."""

    def __init__(self, home: Path) -> None:
        self._layout = StoreLayout(home)
        self._scratch = Scratch(self._layout)

    def path(self, digest: str) -> Path:
        """Return the path of a blob, whether or not it exists. Raises ModelFormatError if `digest` is malformed."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ModelFormatError(f"invalid digest format: {digest[:100]!r} (expected sha256: and 64 hex digits)")
        return self._layout.blobs / f"sha256-{match[1].lower()}"

    def get(self, digest: str) -> Path:
        path = self.path(digest)
        if not path.is_file():
            raise ModelNotFoundError(f'blob "{digest}" not found; upload it first')
        return path

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def upload(self, digest: str) -> "Upload":
        return Upload(self.path(digest), self._scratch)

    def forget_unused(self, directory: Path) -> None:
        """Delete the blobs that only this model uses, whose directory is about to be deleted."""
        files = [status for path in directory.rglob("*") if (status := _status(path)) is not None]
        last_two = {
            (status.st_dev, status.st_ino) for status in files if S_ISREG(status.st_mode) and status.st_nlink == 2
        }
        if not last_two:
            return
        for blob in self._layout.blobs.glob("sha256-*"):
            status = _status(blob)
            if status is not None and (status.st_dev, status.st_ino) in last_two:
                blob.unlink(missing_ok=True)


class Upload:
    """The upload of one blob, which is discarded unless committed. Methods raise ModelStoreError if it cannot be written."""

    def __init__(self, target: Path, scratch: Scratch) -> None:
        self._target = target
        self._scratch = scratch
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def begin(self) -> None:
        with writing("upload"), ExitStack() as stack:
            self._path = stack.enter_context(self._scratch.directory()) / "upload"
            self._file = stack.enter_context(self._path.open("wb"))
            self._open = stack.pop_all()

    def end(self) -> None:
        with writing("upload"):
            self._open.close()

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        with writing("upload"):
            self._file.write(chunk)

    def commit(self) -> None:
        """Move the blob into place. Raises ModelFormatError if its content does not have the digest."""
        expected, found = self._target.name.replace("-", ":"), f"sha256:{self._hash.hexdigest()}"
        if found != expected:
            raise ModelFormatError(f'digest mismatch, expected "{expected}", got "{found}"')
        with writing("upload"):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._target.parent.mkdir(parents=True, exist_ok=True)
            try:
                # A link does not replace an earlier upload of the same content, whose bytes models may share.
                os.link(self._path, self._target)
            except FileExistsError:
                return
            except OSError:
                os.replace(self._path, self._target)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
