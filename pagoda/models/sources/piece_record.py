"""The record of an unfinished file on disk: what its bytes belong to, and how many bytes of each piece are here.

It is a line of JSON about the content, then for each piece a line of a fixed length with the number of its bytes. That line is
overwritten in place after the bytes are written, so that a killed process loses nothing that was reported. A crash of the machine
may leave a record that is ahead of the bytes; the digest of the complete file shows that.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LINE_BYTES = 17
_MAX_BYTES = 1 << 16


@dataclass(slots=True, eq=False)
class Piece:
    """A range of the file that one connection receives in order."""

    start: int
    end: int
    line: int
    """Number of its line in the record."""
    num_received: int = 0
    is_taken: bool = False
    """True while a thread receives it."""

    @property
    def position(self) -> int:
        return self.start + self.num_received

    @property
    def is_complete(self) -> bool:
        return self.position == self.end


class PieceRecord:
    """The record in one open file."""

    def __init__(self, file: int) -> None:
        """Use the file descriptor, which stays the caller's."""
        self.etag: str | None = None
        self.pieces: Sequence[Piece] = ()
        self._file = file
        self._header_bytes = 0

    def begin(self, content: Mapping[str, Any], size: int, piece_bytes: int, etag: str | None) -> None:
        """Write a record without any bytes."""
        self.etag, self.pieces = etag, _split(size, piece_bytes)
        header = json.dumps({**content, "size": size, "piece_bytes": piece_bytes, "etag": etag}).encode() + b"\n"
        self._header_bytes = len(header)
        os.ftruncate(self._file, 0)
        write_all(self._file, header + b"".join(_line(0) for _ in self.pieces), 0)

    def read(self, content: Mapping[str, Any], size: int) -> bool:
        """Return True if the record is one of this content, and take it over."""
        header, _, lines = os.pread(self._file, _MAX_BYTES, 0).partition(b"\n")
        try:
            known = json.loads(header)
            if any(known[key] != value for key, value in {**content, "size": size}.items()):
                return False
            counts = [int(line) for line in lines.splitlines()]
            if len(counts) != -(-size // known["piece_bytes"]):
                return False
            pieces = _split(size, known["piece_bytes"])
            for piece, num_received in zip(pieces, counts, strict=True):
                piece.num_received = num_received
                if not 0 <= num_received <= piece.end - piece.start:
                    return False
            self.etag = known["etag"]
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            return False  # damaged, or of another version of Pagoda
        self.pieces, self._header_bytes = pieces, len(header) + 1
        return True

    def note(self, piece: Piece, num_received: int) -> None:
        """Write how many bytes of a piece are here."""
        piece.num_received = num_received
        write_all(self._file, _line(num_received), self._header_bytes + piece.line * _LINE_BYTES)


def write_all(file: int, data: bytes, position: int) -> None:
    """Write all bytes at a position of the file."""
    rest = memoryview(data)
    while rest:
        num_written = os.pwrite(file, rest, position)
        rest, position = rest[num_written:], position + num_written


def _split(size: int, piece_bytes: int) -> list[Piece]:
    starts = range(0, size, piece_bytes) if size else ()
    return [Piece(start, min(start + piece_bytes, size), line) for line, start in enumerate(starts)]


def _line(num_bytes: int) -> bytes:
    return b"%0*d\n" % (_LINE_BYTES - 1, num_bytes)
