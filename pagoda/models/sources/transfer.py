"""Downloads of files over HTTP: over several connections, resumed after a broken connection and in later processes, and verified.

A file is unfinished beside its target until it is complete and verified (partial_file.py). Each thread takes one piece of a file
at a time. A large file has several pieces, which are received at the same time if the server sends ranges.
"""

import logging
import shutil
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import httpx

from pagoda.models.errors import ModelSourceError, ModelStoreError
from pagoda.models.scratch import writing
from pagoda.models.sources.attempts import Attempts
from pagoda.models.sources.file_request import FileAnswer, InterruptedDownloadError, RangeMismatchError, request_file
from pagoda.models.sources.interruption import Interruption, StoppedError, run_in_threads
from pagoda.models.sources.partial_file import PARTIAL_SUFFIX, PartialFile, SupersededError
from pagoda.models.sources.piece_record import Piece
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile

__all__ = ["PARTIAL_SUFFIX", "download_files"]

MAX_CONNECTIONS = 8
RANGE_FAILURES = 3
"""Number of failures without a new byte after which a file whose ranges do not match is started over, without ranges."""
_LOCK_POLL_S = 0.2

logger = logging.getLogger(__name__)


def download_files(client: httpx.Client, files: Mapping[Path, RemoteFile], meter: DownloadMeter) -> None:
    """Download each file to its target path, complete and verified or not at all.

    Raises ModelSourceError, or ModelStoreError if the disk is full, and whatever `meter` raises. What was received stays for the
    next call. If another process downloads one of the files, this one waits for it.
    """
    _Download(client, files, meter).run()


class _Download:
    """One call: its files, and the threads that receive them."""

    def __init__(self, client: httpx.Client, files: Mapping[Path, RemoteFile], meter: DownloadMeter) -> None:
        self._client = client
        self._meter = meter
        self._changed = threading.Condition()
        """Notified when there may be another piece to receive."""
        self._interruption = Interruption(on_stop=self._wake)
        self._files = [PartialFile(target, remote, self._interruption) for target, remote in files.items()]
        self._started_over: set[PartialFile] = set()
        self._receiver_error: OSError | None = None

    def run(self) -> None:
        with writing("model"):
            self._check_space()
        try:
            run_in_threads(self._work, MAX_CONNECTIONS, self._interruption)
        finally:
            for file in self._files:
                file.close()
        if self._receiver_error is not None:
            raise self._receiver_error

    def _check_space(self) -> None:
        """Raise ModelStoreError if the disk is too full, before gigabytes are downloaded in vain."""
        needed: dict[Path, int] = {}
        for file in self._files:
            directory = file.target.parent
            directory.mkdir(parents=True, exist_ok=True)
            needed[directory] = needed.get(directory, 0) + file.num_missing_on_disk()
        for directory, num_bytes in needed.items():
            disk = shutil.disk_usage(directory)
            if disk.total > 0 and num_bytes > disk.free:
                raise ModelStoreError(
                    f"not enough space on the disk: the model needs {num_bytes / 1e9:.2f} GB more, "
                    f"{disk.free / 1e9:.2f} GB are free; make room and pull again"
                )

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                self._do(*job)
                self._wake()
        except OSError as error:
            reason = error.strerror or error
            raise ModelStoreError(
                f"the model could not be stored: {reason}; pull again to resume the download"
            ) from error

    def _next(self) -> tuple[PartialFile, Piece | Literal["verify"] | None] | None:
        """Return the next piece to receive, or file to verify or only to report, or None if all files are done."""
        with self._changed:
            while True:
                self._interruption.check()
                is_waiting = False
                for file in self._files:
                    if file.is_done:
                        continue
                    if not file.try_open():
                        is_waiting = True
                    elif file.is_done or (job := file.take()) is not None:
                        return file, None if file.is_done else job
                if all(file.is_done for file in self._files):
                    return None
                self._changed.wait(_LOCK_POLL_S if is_waiting else None)

    def _do(self, file: PartialFile, job: Piece | Literal["verify"] | None) -> None:
        """Receive a piece of the file, or verify the file, and report its progress."""
        self._report(file)
        piece = self._verify(file) if job == "verify" else job
        if piece is not None:
            with suppress(SupersededError):  # another thread has started the file over
                self._receive(file, piece)

    def _receive(self, file: PartialFile, piece: Piece) -> None:
        """Receive the piece, in as many attempts as it takes. Raises SupersededError."""
        attempts = Attempts(file.remote, self._interruption)
        while not piece.is_complete:
            file.prepare(piece)
            furthest, position = file.furthest, piece.position
            try:
                with request_file(
                    self._client, file.remote, self._interruption, position, piece.end, file.etag_to_match
                ) as answer:
                    piece = file.accept(piece, answer.etag, is_whole=answer.is_whole)
                    self._wake()
                    self._read(answer, file, piece)
            except InterruptedDownloadError as error:
                if piece.is_complete:
                    return
                has_own, has_any = piece.position > position, attempts.is_progress(file.furthest - furthest)
                attempts.fail(error, file.num_bytes, has_own=has_own, has_any=has_any)
                if isinstance(error, RangeMismatchError) and (
                    not file.has_digest or attempts.num_failures >= RANGE_FAILURES
                ):
                    piece = file.start_over(piece)

    def _read(self, answer: FileAnswer, file: PartialFile, piece: Piece) -> None:
        """Read the answer to its end, which keeps the connection usable. Bytes after the end of a range are ignored."""
        for chunk in answer.chunks():
            left = piece.end - piece.position
            if len(chunk) > left and answer.is_whole:
                file.discard()
                size = file.remote.size_bytes
                raise ModelSourceError(
                    f"{file.remote.path} is larger than expected (limit: {size} bytes); the download was stopped"
                )
            if left == 0:
                return
            file.write(piece, chunk[:left])
            self._report(file)
        if not piece.is_complete:
            raise InterruptedDownloadError("the connection ended early")

    def _verify(self, file: PartialFile) -> Piece | None:
        """Make a correct file the target. Return the piece to receive if the file has to be downloaded once more."""
        found, remote = file.finish(), file.remote
        if found is None:
            self._report(file)
            return None
        if file.is_pieced and file not in self._started_over:
            self._started_over.add(file)
            logger.warning("download damaged; restarting it", extra={"file": remote.path})
            return file.start_over(None)
        file.discard()
        kind, expected = ("SHA-256", remote.sha256) if remote.sha256 else ("git object ID", remote.git_oid)
        raise ModelSourceError(
            f"{kind} mismatch for {remote.path} (expected {expected}, got {found}); the file was deleted"
        )

    def _report(self, file: PartialFile) -> None:
        try:
            self._meter.report(file.remote.path, file.num_bytes)
        except OSError as error:  # an error of the caller, which is not one of the disk
            self._receiver_error = error
            self._interruption.stop()
            raise StoppedError from None

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
