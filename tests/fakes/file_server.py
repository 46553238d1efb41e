"""A file server on a real port of 127.0.0.1, in threads of the test. It serves files with ranges, and with the faults that a test
chooses, and records the requests.

`url` and `other_url` have different host names for the same server, so that it can redirect to "another" host.
"""

import hashlib
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from tests.fakes.certificates import CertificateFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault of one answer. The default is a correct answer."""

    status: int | None = None
    """Status of an answer without the file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are added, or replace correct ones."""
    body: bytes | None = None
    """Bytes that are sent instead of the right ones, of the same or another number."""
    cut_after: int | None = None
    """Number of bytes after which the connection is closed."""
    stall_after: int | None = None
    """Number of bytes after which nothing more is sent until the server ends."""
    has_ranges: bool = True
    """False to ignore the request's range and send the whole file."""
    surplus: bytes = b""
    """Bytes after those of the file, in an answer without Content-Length."""
    has_length: bool = True
    """False to omit Content-Length and close the connection at the end."""


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One request that the server has received."""

    path: str
    host: str
    range: str | None
    authorization: str | None
    status: int
    """Status of the answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that a test composes itself."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(slots=True, eq=False)
class FileServer:
    """The running server. A test changes its fields at any time."""

    port: int
    scheme: str = "http"
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by path, such as "/model.gguf"."""
    faults: list[Fault] = field(default_factory=list)
    """Faults of the next answers with a file, one each."""
    always: Fault = field(default_factory=Fault)
    """Fault of all further answers with a file."""
    has_etags: bool = True
    redirect: int | None = None
    """Status (307, or 200) of a redirect to the other host, with a signed URL that works once."""
    reply: Callable[[BaseHTTPRequestHandler], Reply | None] = lambda handler: None
    """Function that answers requests which are not for a file."""
    requests: list[FileRequest] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    num_stalled: int = 0
    """Number of answers that stall, counted before their first byte is sent."""
    _signatures: set[str] = field(default_factory=set)
    _num_signed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def other_url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    def next_fault(self) -> Fault:
        with self._lock:
            return self.faults.pop(0) if self.faults else self.always

    def count_stalled(self) -> None:
        with self._lock:
            self.num_stalled += 1

    def sign(self) -> str:
        with self._lock:
            self._num_signed += 1
            self._signatures.add(signature := f"signature={self._num_signed}")
            return signature

    def use_signature(self, query: str) -> bool:
        """Return True if the signature is valid, which it is once."""
        with self._lock:
            is_valid = query in self._signatures
            self._signatures.discard(query)
            return is_valid


@contextmanager
def file_server(certificate: CertificateFiles | None = None) -> Iterator[FileServer]:
    """Run the server while the block runs and yield it. With a certificate it speaks TLS."""

    class Handler(_Handler):
        @property
        def files(self) -> FileServer:
            return server

    with _Server(("127.0.0.1", 0), Handler) as http:
        server = FileServer(http.server_port)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            # The handshake is left to the thread of the connection.
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
            server.scheme = "https"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            http.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Idle connections of a client that is still open would keep their threads, and the test, waiting.
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print an error, unless the client has closed the connection."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def files(self) -> FileServer:
        raise NotImplementedError

    def do_GET(self) -> None:
        url, files = urlsplit(self.path), self.files
        if (reply := files.reply(self)) is not None:
            self.answer(reply.status, reply.headers, reply.body)
        elif url.path not in files.files:
            self.answer(404)
        elif files.redirect is None:
            self._send_file(files.files[url.path])
        elif not url.query:
            location = f"{files.other_url}{url.path}?{files.sign()}"
            self.answer(files.redirect, {"Location": location}, b"elsewhere")
        elif files.use_signature(url.query):
            self._send_file(files.files[url.path])
        else:
            self.answer(403)

    do_HEAD = do_GET

    def answer(self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        self._begin(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.command != "HEAD":
            self._write(body)

    def _send_file(self, content: bytes) -> None:
        fault = self.files.next_fault()
        if fault.status is not None:
            return self.answer(fault.status, fault.headers, fault.body or b"")
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes"} if self.files.has_etags else {}
        asked = self._range(etag, len(content)) if fault.has_ranges else None
        start, end = (0, len(content)) if asked is None else asked
        if start >= end:
            return self.answer(416, {"Content-Range": f"bytes */{len(content)}", **fault.headers})
        body = content[start:end]
        if asked is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if fault.body is not None:
            body = fault.body
        headers["Content-Length"] = str(len(body))
        if fault.surplus or not fault.has_length:
            del headers["Content-Length"]
            headers["Connection"] = "close"
        self._begin(200 if asked is None else 206, {**headers, **fault.headers})
        if self.command != "HEAD":
            self._send_body(body + fault.surplus, fault)

    def _send_body(self, body: bytes, fault: Fault) -> None:
        self.close_connection = self.close_connection or not fault.has_length or bool(fault.surplus)
        if fault.stall_after is not None:
            self.close_connection = True
            self.files.count_stalled()
            self._write(body[: fault.stall_after])
            self.files.over.wait()
        elif fault.cut_after is not None:
            self.close_connection = True
            self._write(body[: fault.cut_after])
        else:
            self._write(body)

    def _range(self, etag: str, size: int) -> tuple[int, int] | None:
        """Return the range that the answer has, or None for the whole file."""
        asked = self.headers.get("Range")
        if asked is None or self.headers.get("If-Range", etag) != etag:
            return None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.files.requests.append(
            FileRequest(
                urlsplit(self.path).path,
                self.headers["Host"].partition(":")[0],
                self.headers.get("Range"),
                self.headers.get("Authorization"),
                status,
            )
        )
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _write(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has gone
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass
