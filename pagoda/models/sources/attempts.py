"""Repeated attempts to receive a piece of a file: how long to wait after a failure, and when to give up."""

import logging

import httpx

from pagoda.models.errors import ModelAccessError, ModelSourceError
from pagoda.models.sources.file_request import MIN_BYTES, InterruptedDownloadError, RedirectRefusedError
from pagoda.models.sources.interruption import Interruption
from pagoda.models.sources.remote import RemoteFile

MAX_FAILURES = 6
"""Number of failures in a row, each without progress, after which a download ends. With the waits they take half a minute."""
FIRST_WAIT_S = 0.5
MAX_WAIT_S = 60.0
"""Longest wait that a server can ask for, in seconds."""

logger = logging.getLogger(__name__)


class Attempts:
    """The attempts of one thread to receive bytes of one file."""

    def __init__(self, file: RemoteFile, interruption: Interruption) -> None:
        self.num_failures = 0
        """Number of failures in a row during which the file has not advanced, on any connection."""
        # A server that sends a byte per connection makes no progress. A small file may arrive in smaller steps.
        self._min_bytes = max(min(MIN_BYTES, file.size_bytes // 100), 1)
        self._path = file.path
        self._host = httpx.URL(file.url).host
        self._interruption = interruption
        self._num_own = 0
        self._was_refused = False

    def is_progress(self, num_new_bytes: int) -> bool:
        """Return True if this many new bytes are enough to continue."""
        return num_new_bytes >= self._min_bytes

    def fail(self, error: InterruptedDownloadError, num_bytes: int, *, has_own: bool, has_any: bool) -> None:
        """Wait for the next attempt. Raises ModelSourceError after too many failures, and StoppedError.

        `has_own` and `has_any` are True if this connection and the whole file have advanced since the last failure. The wait
        depends on the one, the end on the other: while other connections advance, a server may refuse this one.
        """
        self.num_failures = 0 if has_any else self.num_failures + 1
        self._num_own = 0 if has_own else self._num_own + 1
        is_refused = isinstance(error, RedirectRefusedError)
        if is_refused and self._was_refused:
            raise ModelAccessError(f"{self._path} cannot be downloaded ({error}); check your access and token")
        self._was_refused = is_refused
        if self.num_failures == MAX_FAILURES and num_bytes == 0:
            raise ModelSourceError(
                f"{self._path} could not be downloaded from {self._host} ({error}); check the network and pull again"
            )
        if self.num_failures == MAX_FAILURES:
            raise ModelSourceError(
                f"the download of {self._path} stopped after {num_bytes / 1e6:.1f} MB ({error}); pull again to resume it"
            )
        logger.info("download interrupted", extra={"file": self._path, "bytes": num_bytes, "reason": str(error)})
        wait_s = max(FIRST_WAIT_S * 2 ** min(self._num_own, MAX_FAILURES), error.retry_after_s)
        self._interruption.wait(min(wait_s, MAX_WAIT_S))
