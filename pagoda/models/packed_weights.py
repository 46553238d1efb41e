"""The cache of packed weights below HOME/packed: the places of its files, their sizes, and their removal.

A worker writes the weights of a model, converted into the form that its kernels read, so that the next start need not convert them.
A file's name begins with the model's digest.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SUFFIX = ".packed"
UNFINISHED = ".unfinished"


def packed_directory(home: Path) -> Path:
    return home / "packed"


def packed_path(home: Path, digest: str, key: str) -> Path:
    """Return the place of a model's weights, as the kernels named by `key` pack them."""
    return packed_directory(home) / f"{digest}-{key}{SUFFIX}"


def packed_files(home: Path, digest: str = "") -> list[Path]:
    """Return the files of the model with this digest, by default of all models; the one not used for the longest time first."""
    return [path for _, path in sorted(_times(home, digest))]


def _times(home: Path, digest: str) -> Iterator[tuple[int, Path]]:
    for path in packed_directory(home).glob(f"{digest}*{SUFFIX}"):
        with suppress(OSError):  # Another process may remove it.
            yield path.stat().st_mtime_ns, path


def packed_bytes(home: Path) -> int:
    """Return the size of all files."""
    total = 0
    for path in packed_files(home):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def remove_packed(home: Path, digest: str) -> None:
    """Remove the files of the model with this digest. A worker that has read them does not need them any more."""
    for path in packed_files(home, digest) if digest else []:
        with suppress(OSError):
            path.unlink()
