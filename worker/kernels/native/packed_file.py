"""Files of packed weights: each matrix in the form in which the kernels read it, so that the next start need not pack it.

A file has a header in JSON, with the hash of the header before it, and then the parts' bytes in order. The header names each part's
source, and has a checksum of each piece of the bytes. A file is written under another name and renamed when it is complete.
"""

import ctypes
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pagoda.process.resources import usable_cores
from worker.kernels.native.packing_calls import PackedFileCall
from worker.kernels.native.panel_memory import ALIGNMENT, PackedPart, map_huge_pages

MAGIC = b"PAGODA packed 1\n"
HASH_BYTES = 32
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 26
PIECE_BYTES = 1 << 20
DATA_ALIGNMENT = 4096


class PackedFileError(Exception):
    """The file is damaged, or is not that of this model and these kernels; the message says why."""


class StoppedError(Exception):
    """The writing was stopped before its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The places of the parts in the bytes after the header."""

    starts: Sequence[int]
    num_bytes: int

    @classmethod
    def of(cls, sizes: Sequence[int]) -> "Layout":
        starts, end = [], 0
        for size in sizes:
            starts.append(end)
            end += -(-size // ALIGNMENT) * ALIGNMENT
        return cls(starts=starts, num_bytes=end)


def read_packed_file(library: ctypes.CDLL, path: Path, key: str) -> list[PackedPart]:
    """Return the parts of a file, in memory of their own. Raises PackedFileError for a damaged file, OSError if there is none."""
    with path.open("rb") as file:
        header, data_start = _read_header(file.fileno())
        if header["key"] != key:
            raise PackedFileError("it belongs to another model or to other kernels")
        layout = Layout.of([size for _, size in header["parts"]])
        if os.fstat(file.fileno()).st_size != data_start + layout.num_bytes:
            raise PackedFileError("it has another size than its header says")
        memory = map_huge_pages(layout.num_bytes)
        sums = _sums(library, memory[: layout.num_bytes], file.fileno(), data_start)
    if sums != header["sums"]:
        raise PackedFileError("a checksum differs")
    return [
        PackedPart(source=source, memory=memory[start : start + size])
        for start, (source, size) in zip(layout.starts, header["parts"], strict=True)
    ]


def _read_header(file: int) -> tuple[dict[str, Any], int]:
    start = os.pread(file, len(MAGIC) + HASH_BYTES + LENGTH_BYTES, 0)
    length = int.from_bytes(start[len(MAGIC) + HASH_BYTES :], "little")
    if not start.startswith(MAGIC) or length > MAX_HEADER_BYTES:
        raise PackedFileError("it does not begin as such a file does")
    text = os.pread(file, length, len(start))
    if hashlib.sha256(text).digest() != start[len(MAGIC) :][:HASH_BYTES]:
        raise PackedFileError("its header is damaged")
    header: dict[str, Any] = json.loads(text)
    return header, _data_start(length)


def _data_start(header_bytes: int) -> int:
    return -(-(len(MAGIC) + HASH_BYTES + LENGTH_BYTES + header_bytes) // DATA_ALIGNMENT) * DATA_ALIGNMENT


def write_packed_file(
    library: ctypes.CDLL, path: Path, key: str, parts: Sequence[PackedPart], is_stopped: Callable[[], bool]
) -> None:
    """Write the parts. Raises OSError, and StoppedError soon after `is_stopped` returns True; `path` may then be incomplete."""
    layout = Layout.of([part.memory.nbytes for part in parts])
    sums: list[int] = []
    with path.open("wb") as file:
        # The header has the sums of the bytes, so it is written last, into the room left for it.
        room = _header(key, parts, [2**64 - 1] * -(-layout.num_bytes // PIECE_BYTES))
        data_start = _data_start(len(room))
        file.seek(data_start)
        pending = bytearray()
        for part in parts:
            view = part.memory.numpy().data.cast("B")
            for first in range(0, len(view), PIECE_BYTES):
                pending += view[first : first + PIECE_BYTES]
                if is_stopped():
                    raise StoppedError
                sums += _write_pieces(library, file, pending)
            pending += bytes(-len(view) % ALIGNMENT)
        sums += _write_pieces(library, file, pending, is_end=True)
        header = _header(key, parts, sums).ljust(len(room))
        file.seek(0)
        file.write(MAGIC + hashlib.sha256(header).digest() + len(header).to_bytes(LENGTH_BYTES, "little") + header)


def _write_pieces(library: ctypes.CDLL, file: Any, pending: bytearray, *, is_end: bool = False) -> list[int]:
    """Write the whole pieces of `pending`, or all of it at the end. Remove what was written and return the pieces' sums."""
    size = len(pending) if is_end else len(pending) // PIECE_BYTES * PIECE_BYTES
    if size == 0:
        return []
    piece = pending[:size]
    del pending[:size]
    file.write(piece)
    return _sums(library, torch.frombuffer(piece, dtype=torch.int8), -1, 0)


def _header(key: str, parts: Sequence[PackedPart], sums: Sequence[int]) -> bytes:
    described = [(part.source, part.memory.nbytes) for part in parts]
    return json.dumps({"key": key, "parts": described, "sums": sums}).encode()


def _sums(library: ctypes.CDLL, memory: torch.Tensor, file: int, offset: int) -> list[int]:
    """Return the sum of each piece of the memory, which is filled from the file before unless `file` is -1."""
    sums = np.zeros(-(-memory.nbytes // PIECE_BYTES), np.uint64)
    call = PackedFileCall(
        file=file,
        offset=offset,
        memory=memory.data_ptr(),
        num_bytes=memory.nbytes,
        piece_bytes=PIECE_BYTES,
        sums=sums.ctypes.data,
    )
    if file >= 0:
        library.set_threads(usable_cores())
    library.read_packed(ctypes.byref(call))
    return [int(value) for value in sums]
