"""A package index on a real port of 127.0.0.1, in a thread of the test. It serves wheels, with faults that a test
chooses.

It has one page for each project, in JSON or HTML, and serves byte ranges of files. It records the requests.
"""

import base64
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


def wheel_bytes(files: Mapping[str, bytes], project: str) -> bytes:
    """Return a wheel of version 1.0 for any Python and machine."""
    info = f"{project.replace('-', '_')}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**files, **about}.items():
            archive.writestr(name, data)
    return wheel.getvalue()


def wheel_name(project: str) -> str:
    return f"{project.replace('-', '_')}-1.0-py3-none-any.whl"


@dataclass(frozen=True, slots=True)
class FileRequest:
    name: str
    range: str | None
    status: int


@dataclass(slots=True, eq=False)
class PackageIndex:
    url: str
    """URL of the index, pip's `index-url`."""
    files: dict[str, bytes] = field(default_factory=dict)
    further_entries: list[dict[str, Any]] = field(default_factory=list)
    """Entries of pages in addition to those of `files`."""
    requests: list[FileRequest] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    """Number of bytes that each of the next answers with a file sends before its connection breaks."""
    breaks_always_at: int | None = None
    holds_at: int | None = None
    """Position at which the next file stops; nothing more is sent until the test ends."""
    is_html: bool = False
    promises_digests: bool = True
    promised: dict[str, str] = field(default_factory=dict)
    """Wrong digests that pages announce."""
    has_etags: bool = False
    has_ranges: bool = True
    too_long_by: int = 0
    """Difference between the announced length and the file's, in bytes."""
    is_endless: bool = False
    only_for_pip: str | None = None
    """Prefix of the paths that only pip may read."""
    password: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def page(self, project: str) -> tuple[str, str]:
        names = [name for name in self.files if name.startswith(f"{project.replace('-', '_')}-")]
        if self.is_html:
            fragments = [f"#sha256={self._digest(name)}" if self.promises_digests else "" for name in names]
            links = "".join(
                f'<a href="../../files/{name}{fragment}">{name}</a>'
                for name, fragment in zip(names, fragments, strict=True)
            )
            return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>"
        entries = [
            {
                "filename": name,
                "url": f"../../files/{name}",
                "hashes": {"sha256": self._digest(name)} if self.promises_digests else {},
            }
            for name in names
        ]
        page = {"meta": {"api-version": "1.0"}, "name": project, "files": [*self.further_entries, *entries]}
        return JSON_TYPE, json.dumps(page)

    def end_of_answer(self, start: int, length: int) -> int:
        """Return the position in the file where this answer ends or breaks."""
        if self.breaks:
            return min(start + self.breaks.pop(0), length)
        return length if self.breaks_always_at is None else min(self.breaks_always_at, length)

    def _digest(self, name: str) -> str:
        return self.promised.get(name) or hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def package_index() -> Iterator[PackageIndex]:
    class Handler(_Handler):
        @property
        def index(self) -> PackageIndex:
            return index

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        index = PackageIndex(f"http://127.0.0.1:{http.server_port}/simple")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield index
        finally:
            index.over.set()
            http.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def index(self) -> PackageIndex:
        raise NotImplementedError

    def do_GET(self) -> None:
        directory, _, name = self.path.strip("/").partition("/")
        if not self._is_allowed():
            self._send(401 if self.index.password else 403)
        elif directory == "simple":
            content_type, text = self.index.page(name)
            self._send(200, text.encode(), {"Content-Type": content_type})
        elif name in self.index.files:
            self._send_file(name, self.index.files[name])
        else:
            self._send(404)

    def _is_allowed(self) -> bool:
        if self.index.only_for_pip is not None and self.path.startswith(self.index.only_for_pip):
            return self.headers["User-Agent"].startswith("pip/")
        expected = base64.b64encode(f"user:{self.index.password}".encode()).decode()
        return self.index.password is None or self.headers.get("Authorization") == f"Basic {expected}"

    def _send_file(self, name: str, content: bytes) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        start = self._start(etag)
        status = 200 if start is None else 206 if start < len(content) else 416
        self.index.requests.append(FileRequest(name, self.headers.get("Range"), status))
        headers = {"ETag": etag} if self.index.has_etags else {}
        if status == 416:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._begin(status, headers, None if self.index.is_endless else len(content) - (start or 0))
        self._write_body(content, start or 0)

    def _start(self, etag: str) -> int | None:
        asked = self.headers.get("Range")
        if asked is None or not self.index.has_ranges or self.headers.get("If-Range", etag) != etag:
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def _begin(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if length is not None:
            self.send_header("Content-Length", str(length + self.index.too_long_by))
        self.end_headers()

    def _write_body(self, content: bytes, start: int) -> None:
        self.close_connection = True
        try:
            if self.index.holds_at is not None:
                self.wfile.write(content[start : self.index.holds_at])
                self.index.over.wait()
            elif self.index.is_endless:
                while not self.index.over.is_set():
                    self.wfile.write(content)
            else:
                self.wfile.write(content[start : self.index.end_of_answer(start, len(content))])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        if status == 401:
            self.send_header("WWW-Authenticate", "Basic")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
