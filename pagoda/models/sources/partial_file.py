"""An unfinished file beside its target, which becomes the target once it is complete and verified.

TARGET.partial          the file in its full size; bytes that are not here yet are a hole
TARGET.partial.state    its record (piece_record.py)
"""

import errno
import fcntl
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pagoda.models.sources.file_request import RangeMismatchError
from pagoda.models.sources.interruption import Interruption
from pagoda.models.sources.piece_record import Piece, PieceRecord, write_all
from pagoda.models.sources.remote import RemoteFile

PARTIAL_SUFFIX = ".partial"
"""Ending of an unfinished file beside its target."""
MIN_PIECE_BYTES = 64 << 20
MAX_PIECES = 64
HASH_STEP_BYTES = 64 << 20
"""Number of new bytes after which the digest is computed further. They are then still in the page cache."""
_READ_BYTES = 1 << 20
_BLOCK_BYTES = 512


class SupersededError(Exception):
    """The file was started over, so that the bytes of this piece are no longer wanted."""


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
        """Largest number of bytes that have been here. It is kept when the file is started over."""
        self._interruption = interruption
        self._path = target.with_name(f"{target.name}{PARTIAL_SUFFIX}")
        self._state_path = target.with_name(f"{target.name}{PARTIAL_SUFFIX}.state")
        self._files: list[int] = []
        """File descriptors of the partial file and its record, or empty if it is not open."""
        self._lock = threading.RLock()
        self._record = PieceRecord(-1)
        self._num_bytes = 0
        self._is_verifying = False
        self._hash_lock = threading.Lock()
        self._hash = remote.new_hash()
        self._num_hashed = 0

    @property
    def num_bytes(self) -> int:
        """Number of bytes that are here."""
        return self.remote.size_bytes if self.is_done else self._num_bytes

    @property
    def has_digest(self) -> bool:
        return bool(self.remote.digest)

    @property
    def etag_to_match(self) -> str | None:
        """ETag of a file without a digest. With a digest it is not compared, because the servers of one file may differ in it."""
        return None if self.has_digest else self._record.etag

    @property
    def _pieces(self) -> Sequence[Piece]:
        return self._record.pieces

    def num_missing_on_disk(self) -> int:
        """Return how many bytes of the disk the download will take in addition."""
        if self._is_target_there():
            return 0
        try:
            return max(self.remote.size_bytes - self._path.stat().st_blocks * _BLOCK_BYTES, 0)
        except FileNotFoundError:
            return self.remote.size_bytes

    def try_open(self) -> bool:
        """Open the file and read its record, or set `is_done` if the target is there. Return False if another download uses it."""
        if not self.is_done and self._is_target_there():
            self.is_done = True
            with suppress(OSError):  # a process may have been killed before it deleted the record
                self._state_path.unlink()
        if self.is_done or self._files:
            return True
        self.target.parent.mkdir(parents=True, exist_ok=True)
        data = _open(self._path)
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
        os.utime(data)  # so that it does not count as abandoned
        self._files = [data, _open(self._state_path)]
        self._record = PieceRecord(self._files[1])
        is_of_size = os.fstat(data).st_size == self.remote.size_bytes
        if is_of_size and self._record.read(self._content, self.remote.size_bytes):
            self.furthest = self._num_bytes = sum(piece.num_received for piece in self._pieces)
            self.is_pieced = self._num_bytes > 0
        else:
            self._reset(None, is_single=not self.has_digest)
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

    def prepare(self, piece: Piece) -> None:
        """Drop the bytes of the piece if nothing tells whether the rest would belong to them."""
        with self._lock:
            self._check(piece)
            if piece.num_received > 0 and not self.has_digest and self._record.etag is None:
                self._note(piece, 0)

    def accept(self, piece: Piece, etag: str | None, *, is_whole: bool) -> Piece:
        """Note what an answer tells about the server. Return the piece that its body is for. Raises RangeMismatchError."""
        with self._lock:
            self._check(piece)
            is_other_version = not self.has_digest and etag != self._record.etag
            if not is_whole:
                if is_other_version:
                    raise RangeMismatchError("the file on the server has changed")
                self.has_ranges = True
            elif self.has_ranges and self.has_digest:
                raise RangeMismatchError("the server sent the whole file instead of a part of it")
            elif is_other_version or piece.num_received > 0 or len(self._pieces) > 1:
                return self.start_over(piece, etag)
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
        """Append received bytes to the piece. Raises SupersededError, or StoppedError while it hashes."""
        with self._lock:
            self._check(piece)
            write_all(self._files[0], data, piece.position)
            self._note(piece, piece.num_received + len(data))
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
        if found != (self.remote.digest or found).lower():
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
            self._record.pieces = ()
            self._is_verifying = True  # so that no thread takes a piece of it

    def _hash_further(self) -> None:
        """Hash the bytes up to the first hole. The caller holds `_hash_lock`."""
        with self._lock:
            hasher, position = self._hash, self._num_hashed
            end = next((each.position for each in self._pieces if not each.is_complete), self.remote.size_bytes)
        while position < end and (chunk := os.pread(self._files[0], min(_READ_BYTES, end - position), position)):
            self._interruption.check()
            hasher.update(chunk)
            position += len(chunk)
        with self._lock:
            if self._hash is hasher:  # the file was not started over in the meantime
                self._num_hashed = position

    def _is_target_there(self) -> bool:
        try:
            return self.target.stat().st_size == self.remote.size_bytes
        except FileNotFoundError:
            return False

    def _check(self, piece: Piece) -> None:
        if piece not in self._pieces:
            raise SupersededError

    @property
    def _content(self) -> dict[str, str]:
        return {"content": self.remote.digest or ""}

    def _reset(self, etag: str | None, *, is_single: bool) -> None:
        """Begin with no bytes, in one piece or in several."""
        size = self.remote.size_bytes
        self.is_pieced = self._is_verifying = False
        self._num_bytes = self._num_hashed = 0
        self._hash = self.remote.new_hash()
        if is_single:
            self.has_ranges = False
        piece_bytes = size if is_single else max(MIN_PIECE_BYTES, -(-size // MAX_PIECES))
        os.ftruncate(self._files[0], 0)
        os.ftruncate(self._files[0], size)
        self._record.begin(self._content, size, piece_bytes, etag)

    def _note(self, piece: Piece, num_received: int) -> None:
        self._num_bytes += num_received - piece.num_received
        self._record.note(piece, num_received)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


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
