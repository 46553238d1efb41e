"""One request for a file, or for a range of it, and what the server's answer means.

Each request begins at the file's own URL, because the signed URL that a server redirects to expires. Credentials are sent only to
the host of the file's own URL, and no text about an error contains a URL.
"""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from pagoda.models.errors import ModelAccessError, ModelSourceError
from pagoda.models.sources.interruption import Interruption, SlowAnswerError
from pagoda.models.sources.remote import RemoteFile

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
"""Longest silence of a server before the connection counts as broken, in seconds."""
HEAD_TIMEOUT_S = 60.0
"""Longest time until the headers of an answer are complete, in seconds. A server can send them slowly without being silent."""
MIN_BYTES = 1024
"""Number of bytes in READ_TIMEOUT_S below which a connection counts as silent."""
MAX_REDIRECTS = 10
_SMALL_BODY_BYTES = 1 << 16
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_TRY_AGAIN = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


class InterruptedDownloadError(Exception):
    """The request failed or its connection broke. Another request may succeed."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        """Time that the server asks to wait, in seconds."""


class RangeMismatchError(InterruptedDownloadError):
    """The server answered with another range than the one asked for: the file has changed, or its ranges are wrong."""


class RedirectRefusedError(InterruptedDownloadError):
    """The host that the file's server redirects to refuses the request, as it does if the signed URL has expired."""


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A successful answer, whose body is not read yet."""

    response: httpx.Response
    is_whole: bool
    """True if the body is the whole file, False if it begins at the position that was asked for."""

    @property
    def etag(self) -> str | None:
        """Identifier of this version of the file, byte for byte. None if the server has only a weak one, or none."""
        etag: str | None = self.response.headers.get("ETag")
        return None if etag is None or etag.startswith("W/") or not etag.isascii() else etag

    def chunks(self) -> Iterator[bytes]:
        """Yield the body. Raises InterruptedDownloadError, also if the server sends less than MIN_BYTES in READ_TIMEOUT_S."""
        since, num_bytes = time.monotonic(), 0
        with _network_errors():
            for chunk in self.response.iter_raw():
                num_bytes += len(chunk)
                if num_bytes >= MIN_BYTES:
                    since, num_bytes = time.monotonic(), 0
                elif time.monotonic() - since > READ_TIMEOUT_S:
                    raise InterruptedDownloadError(f"only {num_bytes} bytes in {READ_TIMEOUT_S:g} s")
                yield chunk


@contextmanager
def request_file(
    client: httpx.Client,
    file: RemoteFile,
    interruption: Interruption,
    start: int = 0,
    end: int | None = None,
    etag: str | None = None,
) -> Iterator[FileAnswer]:
    """Ask for the bytes from `start` to `end`, by default for all, and yield the answer.

    With `etag`, a changed file is sent whole. Raises InterruptedDownloadError if another attempt may succeed, RangeMismatchError
    for another range than the one asked for, ModelAccessError or ModelSourceError if the server refuses.
    """
    headers = {"Accept-Encoding": "identity"}
    end = file.size_bytes if end is None else end
    is_range = start > 0 or end < file.size_bytes
    if is_range:
        # Without an end where it is the file's: some servers understand only that.
        headers["Range"] = f"bytes={start}-{end - 1 if end < file.size_bytes else ''}"
        if etag is not None:
            headers["If-Range"] = etag
    with _network_errors():
        response = _send(client, file.url, headers, interruption)
    try:
        if "network_stream" in response.extensions:
            interruption.watch(response.extensions["network_stream"])
        interruption.check()
        _check_status(response, file)
        _check_body(response, file)
        if response.status_code == httpx.codes.PARTIAL_CONTENT:
            _check_range(response, file, start, end)
        yield FileAnswer(response, is_whole=response.status_code == httpx.codes.OK)
    finally:
        response.close()


def _send(client: httpx.Client, url: str, headers: dict[str, str], interruption: Interruption) -> httpx.Response:
    """Follow redirects, also those with the status 200, which registries of Ollama's protocol send."""
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    at, is_own = httpx.URL(url), True
    for _ in range(MAX_REDIRECTS + 1):
        interruption.check()
        extensions = {"trace": interruption.trace}
        request = client.build_request("GET", at, headers=headers, timeout=timeout, extensions=extensions)
        with interruption.time_limit(HEAD_TIMEOUT_S):
            if is_own:
                response = client.send(request, stream=True, follow_redirects=False)
            else:
                for name in ("Authorization", "Cookie"):
                    request.headers.pop(name, None)
                response = client.send(request, stream=True, follow_redirects=False, auth=None)
        with ExitStack() as closing:
            closing.callback(response.close)
            to = _redirect(response, at)
            if to is None:
                closing.pop_all()
                return response
            # Reading the short body keeps the connection usable for the next request.
            if int(response.headers.get("Content-Length", _SMALL_BODY_BYTES)) < _SMALL_BODY_BYTES:
                response.read()
        # Once a request has left the server, none of its successors has the credentials.
        is_own = is_own and _is_same_server(at, to)
        at = to
    raise InterruptedDownloadError(f"more than {MAX_REDIRECTS} redirects")


def _redirect(response: httpx.Response, at: httpx.URL) -> httpx.URL | None:
    location = response.headers.get("Location")
    if location is None or not (response.has_redirect_location or response.status_code == httpx.codes.OK):
        return None
    to = at.join(location)
    if to == at and response.status_code == httpx.codes.OK:
        return None
    return to


def is_same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Return True for the same scheme, host and port. Credentials of one origin are not sent to another."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _is_same_server(one: httpx.URL, other: httpx.URL) -> bool:
    """Return True for the same origin, and for the same host if only the encryption was added."""
    is_upgrade = (one.scheme, one.port, other.scheme, other.port) == ("http", None, "https", None)
    return is_same_origin(one, other) or (one.host == other.host and is_upgrade)


def _check_status(response: httpx.Response, file: RemoteFile) -> None:
    status, host = response.status_code, response.url.host
    if status in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
        return
    if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        raise RangeMismatchError("the file on the server is shorter than expected")
    if status in _TRY_AGAIN or response.is_server_error:
        raise InterruptedDownloadError(f"HTTP status {status} from {host}", retry_after_s=_retry_after_s(response))
    if status in _REFUSED and host != httpx.URL(file.url).host:
        raise RedirectRefusedError(f"HTTP status {status} from {host}")
    if status in _REFUSED:
        raise ModelAccessError(
            f"{host} refuses to send {file.path} (HTTP status {status}); check your access and token"
        )
    raise ModelSourceError(f"{host} cannot send {file.path} (HTTP status {status})")


def _check_body(response: httpx.Response, file: RemoteFile) -> None:
    content_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type == "text/html" and not file.path.endswith((".html", ".htm")):
        raise InterruptedDownloadError(f"{response.url.host} sent a web page instead of the file")
    length = response.headers.get("Content-Length")
    if response.status_code == httpx.codes.OK and length is not None and int(length) < file.size_bytes:
        raise InterruptedDownloadError(f"the file on the server has {length} bytes (expected {file.size_bytes})")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise InterruptedDownloadError(f"{response.url.host} sent the file in a compressed form")


def _check_range(response: httpx.Response, file: RemoteFile, start: int, end: int) -> None:
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise RangeMismatchError(f"{response.url.host} sent a part of the file without its range")
    first, last, total = match.groups()
    if total not in ("*", str(file.size_bytes)):
        raise RangeMismatchError(f"the file on the server has {total} bytes (expected {file.size_bytes})")
    if int(first) != start or not start <= int(last) < end:
        raise RangeMismatchError(f"{response.url.host} sent the bytes {first}-{last} instead of {start}-{end - 1}")


def _retry_after_s(response: httpx.Response) -> float:
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


@contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except httpx.LocalProtocolError as error:
        # Its text shows an invalid header, which may have the token.
        if "header" in str(error):
            raise ModelSourceError("the request has an invalid header; check the token") from None
        raise InterruptedDownloadError("the request could not be sent") from None
    except SlowAnswerError as error:
        raise InterruptedDownloadError(str(error)) from None
    except httpx.TimeoutException:
        raise InterruptedDownloadError(f"no answer for {READ_TIMEOUT_S:g} s") from None
    except (httpx.InvalidURL, UnicodeError, OverflowError):  # the last two are of impossible hosts and ports
        raise InterruptedDownloadError("the server redirects to an invalid address") from None
    except httpx.RequestError as error:
        raise InterruptedDownloadError(str(error)[:200] or type(error).__name__) from None
