"""The unfinished part of a file, beside its target, and a record of which bytes are there.

    TARGET.partial          the file in its full size; bytes that are not here yet are a hole
    TARGET.partial.state    a line of JSON about the content, then for each piece a line with the number of its bytes that are here

Each line has a fixed length and is overwritten in place after the bytes are written, so that a killed process loses nothing that
was reported. A crash of the machine may leave a record that is ahead of the bytes; the digest of the complete file shows that.
"""

import errno
import fcntl
import hashlib
import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pagoda.models.sources.file_request import RangeMismatchError
from pagoda.models.sources.interruption import Interruption
from pagoda.models.sources.remote import RemoteFile

PARTIAL_SUFFIX = ".partial"
"""Ending of an unfinished file beside its target."""
STATE_SUFFIX = f"{PARTIAL_SUFFIX}.state"
MIN_PIECE_BYTES = 64 << 20
MAX_PIECES = 64
HASH_STEP_BYTES = 64 << 20
"""Number of new bytes after which the digest is computed further, in bytes. They are then still in the page cache."""
_READ_BYTES = 1 << 20
_LINE_BYTES = 17
_BLOCK_BYTES = 512


class SupersededError(Exception):
    """The file was started over, so that the bytes of this piece are no longer wanted."""


@dataclass(slots=True, eq=False)
class Piece:
    """A range of the file that one connection receives in order."""

    start: int
    end: int
    line: int
    """Number of its line in the record."""
    num_received: int = 0
    is_taken: bool = False

    @property
    def position(self) -> int:
        return self.start + self.num_received

    @property
    def is_complete(self) -> bool:
        return self.position == self.end


class PartialFile:
    """One file that is being downloaded, by several threads of one process at a time."""

    def __init__(self, target: Path, remote: RemoteFile, interruption: Interruption) -> None:
        self.target = target
        self.remote = remote
        self.is_done = False
        """True if the target is complete and verified."""
        self.is_pieced = False
        """True if the bytes come from several answers, which may have been of different versions."""
        self.has_ranges: bool | None = None
        """True if the server sends ranges, None if that is not known yet."""
        self.furthest = 0
        """Largest number of bytes that have been here, in bytes. It is kept when the file is started over."""
        self._interruption = interruption
        self._lock = threading.RLock()
        self._path = target.with_name(f"{target.name}{PARTIAL_SUFFIX}")
        self._state_path = target.with_name(f"{target.name}{STATE_SUFFIX}")
        self._files: list[int] = []
        """File descriptors of the partial file and its record, or empty if it is not open."""
        self._etag: str | None = None
        self._pieces: list[Piece] = []
        self._header_bytes = 0
        self._num_bytes = 0
        self._is_verifying = False
        self._hash_lock = threading.Lock()
        self._hash = _new_hash(remote)
        self._num_hashed = 0

    @property
    def num_bytes(self) -> int:
        """Number of bytes that are here."""
        return self.remote.size_bytes if self.is_done else self._num_bytes

    @property
    def has_digest(self) -> bool:
        return bool(self.remote.sha256 or self.remote.git_oid)

    @property
    def etag_to_match(self) -> str | None:
        """ETag of a file without a digest. With a digest it is not compared, because the servers of one file may differ in it."""
        return None if self.has_digest else self._etag

    def num_missing_on_disk(self) -> int:
        """Return how many bytes of the disk the download will take in addition."""
        if self._is_target_there():
            return 0
        try:
            return max(self.remote.size_bytes - self._path.stat().st_blocks * _BLOCK_BYTES, 0)
        except FileNotFoundError:
            return self.remote.size_bytes

    def try_open(self) -> bool:
        """Open the file and read its record. Return False if another download uses it. Sets `is_done` if the target is there."""
        if not self.is_done and self._is_target_there():
            self.is_done = True
            with suppress(OSError):  # a process may have been killed before it deleted the record
                self._state_path.unlink()
        if self.is_done or self._files:
            return True
        self.target.parent.mkdir(parents=True, exist_ok=True)
        data = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if not _lock(data):
            os.close(data)
            return False
        if not _is_same_file(data, self._path):  # another download has completed it in the meantime
            os.close(data)
            return self.try_open()
        if self._is_target_there():  # completed since the first look, so this partial file is a new one
            self._path.unlink()
            os.close(data)
            self.is_done = True
            return True
        self._files = [data, os.open(self._state_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)]
        if not self._read_record():
            self._reset(None, is_single=False)
        return True

    def close(self) -> None:
        with self._lock:
            files, self._files = self._files, []
            for file in files:
                os.close(file)

    def take(self) -> Piece | Literal["verify"] | None:
        """Return a piece that no other thread receives, or "verify" if all are here, or None if there is nothing to do now."""
        with self._lock:
            if self.is_done or self._is_verifying:
                return None
            if all(piece.is_complete for piece in self._pieces):
                self._is_verifying = True
                return "verify"
            if not self.has_ranges and any(piece.is_taken for piece in self._pieces):
                return None
            piece = next((each for each in self._pieces if not each.is_taken and not each.is_complete), None)
            if piece is not None:
                piece.is_taken = True
            return piece

    def release(self, piece: Piece) -> None:
        with self._lock:
            piece.is_taken = False

    def prepare(self, piece: Piece) -> None:
        """Drop the bytes of the piece if nothing tells whether the rest would belong to them."""
        with self._lock:
            self._check(piece)
            if piece.num_received > 0 and not self.has_digest and self._etag is None:
                self._write_state(piece, 0)

    def accept(self, piece: Piece, etag: str | None, *, is_whole: bool) -> Piece:
        """Note what an answer tells about the server. Return the piece that its body is for."""
        with self._lock:
            self._check(piece)
            if not is_whole and not self.has_digest and etag != self._etag:
                raise RangeMismatchError("the file on the server has changed")
            if not is_whole:
                self.has_ranges = True
            elif self.has_ranges and self.has_digest:
                raise RangeMismatchError("the server sent the whole file instead of a part of it")
            elif piece.num_received > 0 or piece.end - piece.start < self.remote.size_bytes:
                return self.start_over(piece, etag)
            elif not self.has_digest and self._etag != etag:
                self._reset(etag, is_single=True)
                self._pieces[0].is_taken = True
                return self._pieces[0]
            self.is_pieced |= self._num_bytes > 0
            return piece

    def start_over(self, piece: Piece | None, etag: str | None = None) -> Piece:
        """Drop all bytes. Return the one piece that there is then, taken: one connection receives the file from the start."""
        with self._lock:
            if piece is not None:
                self._check(piece)
            self._reset(etag, is_single=True)
            self._pieces[0].is_taken = True
            return self._pieces[0]

    def write(self, piece: Piece, data: bytes) -> None:
        """Append received bytes to the piece. Raises SupersededError."""
        with self._lock:
            self._check(piece)
            _write_all(self._files[0], data, piece.position)
            self._write_state(piece, piece.num_received + len(data))
            self.furthest = max(self.furthest, self._num_bytes)
            is_step = piece.num_received % HASH_STEP_BYTES < len(data) or piece.is_complete
        if is_step and self._hash_lock.acquire(blocking=False):
            try:
                self._hash_further()
            finally:
                self._hash_lock.release()

    def finish(self) -> str | None:
        """Verify the bytes and make them the target. If they are wrong, return their digest."""
        with self._hash_lock:
            self._hash_further()
            found = self._hash.hexdigest()
        if found != (self.remote.sha256 or self.remote.git_oid or found).lower():
            return found
        with self._lock:
            os.fsync(self._files[0])
            os.replace(self._path, self.target)
            self._state_path.unlink(missing_ok=True)
            self.is_done = True
            self.close()
        return None

    def discard(self) -> None:
        """Delete all that is here."""
        with self._lock:
            self._path.unlink(missing_ok=True)
            self._state_path.unlink(missing_ok=True)
            self._pieces = []
            self._is_verifying = True  # so that no thread takes a piece of it

    def _hash_further(self) -> None:
        """Hash the bytes up to the first hole. The caller holds `_hash_lock`."""
        with self._lock:
            hasher, position, end = self._hash, self._num_hashed, self._first_hole()
        while position < end and (chunk := os.pread(self._files[0], min(_READ_BYTES, end - position), position)):
            self._interruption.check()
            hasher.update(chunk)
            position += len(chunk)
        with self._lock:
            if self._hash is hasher:  # the file was not started over in the meantime
                self._num_hashed = position

    def _first_hole(self) -> int:
        for piece in self._pieces:
            if not piece.is_complete:
                return piece.position
        return self.remote.size_bytes

    def _is_target_there(self) -> bool:
        try:
            return self.target.stat().st_size == self.remote.size_bytes
        except FileNotFoundError:
            return False

    def _check(self, piece: Piece) -> None:
        if not any(piece is each for each in self._pieces):
            raise SupersededError

    def _content(self) -> dict[str, object]:
        return {"content": self.remote.sha256 or self.remote.git_oid or "", "size": self.remote.size_bytes}

    def _reset(self, etag: str | None, *, is_single: bool) -> None:
        """Begin with no bytes, and write the record."""
        size = self.remote.size_bytes
        self.is_pieced = self._is_verifying = False
        self._num_bytes = self._num_hashed = 0
        self._hash = _new_hash(self.remote)
        if is_single:
            self.has_ranges = False
        piece_bytes = max(MIN_PIECE_BYTES, -(-size // MAX_PIECES)) if self.has_digest and not is_single else size
        self._etag = etag
        self._pieces = _pieces(size, piece_bytes)
        header = json.dumps(self._content() | {"etag": etag, "piece_bytes": piece_bytes}).encode() + b"\n"
        self._header_bytes = len(header)
        os.ftruncate(self._files[0], 0)
        os.ftruncate(self._files[0], size)
        os.ftruncate(self._files[1], 0)
        _write_all(self._files[1], header + b"".join(_line(0) for _ in self._pieces), 0)

    def _read_record(self) -> bool:
        """Return True if the record and the bytes belong to this content."""
        state = os.pread(self._files[1], 1 << 16, 0)
        header, _, rest = state.partition(b"\n")
        try:
            known = json.loads(header)
            if (
                not self._content().items() <= known.items()
                or os.fstat(self._files[0]).st_size != self.remote.size_bytes
            ):
                return False
            counts = [int(line) for line in rest.splitlines()]
            if len(counts) != -(-self.remote.size_bytes // known["piece_bytes"]):
                return False
            pieces = _pieces(self.remote.size_bytes, known["piece_bytes"])
            for piece, num_received in zip(pieces, counts, strict=True):
                piece.num_received = num_received
                if not 0 <= num_received <= piece.end - piece.start:
                    return False
        except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError):
            return False  # damaged, or of another version of Pagoda
        self._header_bytes, self._pieces, self._etag = len(header) + 1, pieces, known["etag"]
        self.furthest = self._num_bytes = sum(counts)
        self.is_pieced = self._num_bytes > 0
        return True

    def _write_state(self, piece: Piece, num_received: int) -> None:
        self._num_bytes += num_received - piece.num_received
        piece.num_received = num_received
        _write_all(self._files[1], _line(num_received), self._header_bytes + piece.line * _LINE_BYTES)


def _pieces(size: int, piece_bytes: int) -> list[Piece]:
    starts = range(0, size, piece_bytes) if size else ()
    return [Piece(start, min(start + piece_bytes, size), line) for line, start in enumerate(starts)]


def _new_hash(remote: RemoteFile) -> "hashlib._Hash":
    """Return the hash that verifies the file. Git hashes a blob after a header with its size."""
    if remote.sha256 is not None or remote.git_oid is None:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % remote.size_bytes, usedforsecurity=False)


def _line(num_bytes: int) -> bytes:
    return b"%0*d\n" % (_LINE_BYTES - 1, num_bytes)


def _write_all(file: int, data: bytes, position: int) -> None:
    rest = memoryview(data)
    while rest:
        num_written = os.pwrite(file, rest, position)
        rest, position = rest[num_written:], position + num_written


def _lock(file: int) -> bool:
    """Return False if another download has locked the file. Some network file systems have no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


def _is_same_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
