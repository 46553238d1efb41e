"""Files that were uploaded for models yet to be made, named by their sha256: HOME/models/blobs/sha256-<hex>.

Knows nothing about what is in them.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pagoda.models.errors import ModelFormatError, ModelNotFoundError

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")


class BlobStore:
    def __init__(self, home: Path) -> None:
        self._directory = home / "models" / "blobs"

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be; ModelFormatError where the text is no digest."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise ModelFormatError(f"invalid digest format: {digest[:100]!r} (expected sha256: and 64 hex digits)")
        return self._directory / f"sha256-{match[1].lower()}"

    def get(self, digest: str) -> Path:
        path = self.path(digest)
        if not path.is_file():
            raise ModelNotFoundError(f'blob "{digest}" not found; upload it first')
        return path

    def upload(self, digest: str) -> "Upload":
        target = self.path(digest)
        self._directory.mkdir(parents=True, exist_ok=True)
        return Upload(target)

    def forget_unused(self, files: Sequence[Path]) -> None:
        """Delete the blobs that are these files and no other model's. Called before the files themselves go."""
        last_two = {(status.st_dev, status.st_ino) for file in files if (status := file.stat()).st_nlink == 2}
        for blob in self._directory.glob("sha256-*"):
            status = blob.stat()
            if (status.st_dev, status.st_ino) in last_two:
                blob.unlink(missing_ok=True)


class Upload:
    """One blob on its way in. Nothing is left of it unless it was committed."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        self._file = tempfile.NamedTemporaryFile(dir=self._target.parent, prefix=".upload-", delete=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        self._hash.update(chunk)
        self._file.write(chunk)

    def commit(self) -> None:
        expected, found = self._target.name.replace("-", ":"), f"sha256:{self._hash.hexdigest()}"
        if found != expected:
            raise ModelFormatError(f'digest mismatch, expected "{expected}", got "{found}"')
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._file.name, self._target)
