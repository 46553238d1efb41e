"""A registry that speaks Ollama's protocol, on a real port of 127.0.0.1, in a thread of the test.

It answers as Ollama's own: a blob is a redirect to storage at another host name ("localhost" on the same port), and a client
without a token is sent to the token service if the registry wants tokens. Tests choose faults. The requests are recorded.
"""

import hashlib
import json
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.fakes.certificates import CertificateFiles

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."
_PATH = re.compile(r"/v2/(?P<model>.+)/(?P<what>manifests|blobs)/(?P<reference>[^/]+)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    path: str
    host: str
    status: int
    token: str | None = None
    range: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class FakeRegistry:
    """The registry's content and faults."""

    port: int
    manifests: dict[str, bytes] = field(default_factory=dict)
    """Manifests by "NAMESPACE/MODEL:TAG"."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Blobs by "sha256:HEX". A test may put another content under a digest."""
    asked: list[Asked] = field(default_factory=list)

    # How it answers.
    answers_with: str = "307"
    """Answer to a GET of a blob: "307", "200 + Location", "body" as of a plain registry, or "body + own Location"."""
    storage_host: str = "localhost"
    has_ranges: bool = True
    needs_token: bool = False
    token_uses: int | None = None
    """Number of requests after which a token has expired."""
    realm: str | None = None
    """Another address of the token service."""
    refuses_tokens: bool = False
    """True if the token service refuses anonymous users, as Ollama's does for private models."""
    token_answer: bytes | None = None
    """Another answer of the token service."""

    # Faults.
    statuses: list[tuple[str, int]] = field(default_factory=list)
    """Errors of the next requests whose path contains the text: 429, 503 and so on."""
    error_headers: dict[str, str] = field(default_factory=dict)
    """Headers of these errors, such as Retry-After."""
    breaks: list[int] = field(default_factory=list)
    """Number of bytes that each of the next answers of the storage sends before its connection breaks."""
    holds_at: int | None = None
    """Position at which an answer of the storage stops; nothing more is sent until the test ends."""
    too_long_by: int = 0
    """Difference between the announced length and the blob's, in bytes."""
    link_uses: int | None = None
    """Number of requests after which the address of a blob in the storage has expired."""
    on_request: Callable[[str], None] = lambda path: None
    """Function called with the path of each request, so that a test can change the content in between."""

    over: threading.Event = field(default_factory=threading.Event)
    _tokens: dict[str, int] = field(default_factory=dict)
    _links: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def publish(
        self,
        name: str,
        gguf: bytes | None,
        *,
        config: Mapping[str, Any] | None = None,
        sizes: Mapping[str, int] | None = None,
        layers: Sequence[tuple[str, bytes]] = (),
    ) -> str:
        """Put a model under "NAMESPACE/MODEL:TAG", with further layers of (kind, content). Return its manifest's SHA-256.

        `sizes` are wrong sizes of layers by kind.
        """
        entries = [("model", gguf)] if gguf is not None else []
        about = json.dumps({"model_format": "gguf", "os": "linux", "architecture": "amd64", **(config or {})}).encode()
        self.blobs[digest_of(about)] = about
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(about), "size": len(about)},
            "layers": [],
        }
        for kind, content in [*entries, *layers]:
            self.blobs[digest_of(content)] = content
            size = (sizes or {}).get(kind, len(content))
            manifest["layers"].append({"mediaType": LAYER_PREFIX + kind, "digest": digest_of(content), "size": size})
        self.manifests[name] = json.dumps(manifest).encode()
        return hashlib.sha256(self.manifests[name]).hexdigest()

    def requests_of(self, text: str) -> list[Asked]:
        """Return the requests whose path contains the text."""
        return [each for each in self.asked if text in each.path]

    def new_token(self) -> str:
        with self._lock:
            token = f"token-{len(self._tokens)}"
            self._tokens[token] = 0
        return token

    def accepts(self, token: str | None) -> bool:
        with self._lock:
            return token is not None and _use(self._tokens, token, self.token_uses)

    def new_link(self, digest: str) -> str:
        with self._lock:
            key = f"{len(self._links)}"
            self._links[key] = 0
        return f"http://{self.storage_host}:{self.port}/storage/{digest}?key={key}"

    def accepts_link(self, key: str) -> bool:
        with self._lock:
            return _use(self._links, key, self.link_uses)

    def next_error(self, path: str) -> int | None:
        with self._lock:
            for number, (text, status) in enumerate(self.statuses):
                if text in path:
                    del self.statuses[number]
                    return status
        return None


def _use(uses: dict[str, int], key: str, most: int | None) -> bool:
    if key not in uses or (most is not None and uses[key] >= most):
        return False
    uses[key] += 1
    return True


@contextmanager
def registry_of_environment(patch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    """Run a registry that this process and those that it starts use in place of Ollama's."""
    with fake_registry() as registry:
        patch.setenv("PAGODA_REGISTRY", registry.url)
        yield registry


@contextmanager
def fake_registry(certificate: CertificateFiles | None = None) -> Iterator[FakeRegistry]:
    """Run the registry while the block runs, and yield it. With a certificate it speaks TLS."""

    class Handler(_Handler):
        @property
        def registry(self) -> FakeRegistry:
            return registry

    with _Server(("127.0.0.1", 0), Handler) as http:
        registry = FakeRegistry(port=http.server_port)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield registry
        finally:
            registry.over.set()
            http.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ssl.SSLError | ConnectionError):  # the client refused, or has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def registry(self) -> FakeRegistry:
        raise NotImplementedError

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.registry.on_request(address.path)
        if (status := self.registry.next_error(address.path)) is not None:
            return self._send(status, b'{"errors":[{"message":"a fault of the test"}]}', self.registry.error_headers)
        if address.path == "/token":
            return self._send_token(parse_qs(address.query))
        if address.path.startswith("/storage/"):
            return self._send_stored(address.path.rpartition("/")[2], parse_qs(address.query).get("key", [""])[0])
        match = _PATH.fullmatch(address.path)
        if match is None:
            return self._send(404, b"404 page not found")
        if self.registry.needs_token and not self.registry.accepts(self._token()):
            return self._challenge(match["model"])
        if match["what"] == "manifests":
            return self._send_manifest(f"{match['model']}:{match['reference']}")
        return self._send_blob(match["reference"])

    do_HEAD = do_GET

    def _send_manifest(self, name: str) -> None:
        manifest = self.registry.manifests.get(name)
        if manifest is None:
            return self._send(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
        return self._send(200, manifest, {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": digest_of(manifest)})

    def _send_blob(self, digest: str) -> None:
        content = self.registry.blobs.get(digest)
        if content is None:
            return self._send(404, b'{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
        if self.command == "HEAD":  # Ollama's registry answers it itself
            return self._begin(200, {"Content-Length": str(len(content))})
        if self.registry.answers_with.startswith("body"):
            own = {"Location": self.path} if self.registry.answers_with == "body + own Location" else {}
            return self._send_content(content, own)
        status = 307 if self.registry.answers_with == "307" else 200
        return self._send(status, b"", {"Location": self.registry.new_link(digest)})

    def _send_stored(self, digest: str, key: str) -> None:
        if not self.registry.accepts_link(key):
            return self._send(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
        if digest not in self.registry.blobs:
            return self._send(404, b"<Error><Code>NoSuchKey</Code></Error>")
        return self._send_content(self.registry.blobs[digest])

    def _send_content(self, content: bytes, further: Mapping[str, str] = MappingProxyType({})) -> None:
        registry = self.registry
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if registry.has_ranges else None
        start, end = 0, len(content)
        if asked is not None:
            start, end = int(asked[1]), min(end, int(asked[2] or end) + 1)
            if start >= len(content):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers = {"Content-Length": str(end - start + registry.too_long_by), "Accept-Ranges": "bytes", **further}
        if asked is not None:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._begin(200 if asked is None else 206, headers)
        if self.command != "HEAD":
            self._write(content, start, end)

    def _write(self, content: bytes, start: int, end: int) -> None:
        registry = self.registry
        self.close_connection = registry.too_long_by != 0
        if registry.breaks:
            end, self.close_connection = min(start + registry.breaks.pop(0), end), True
        try:
            if registry.holds_at is not None and registry.holds_at < end:
                self.close_connection = True
                self.wfile.write(content[start : registry.holds_at])
                registry.over.wait()
            else:
                self.wfile.write(content[start:end])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has gone

    def _challenge(self, model: str) -> None:
        realm = self.registry.realm or f"{self.registry.url}/token"
        challenge = (
            f'Bearer realm="{realm}",service="{self.registry.host}",scope="repository:{model}:pull other:x:pull"'
        )
        self._send(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', {"WWW-Authenticate": challenge})

    def _send_token(self, query: Mapping[str, Sequence[str]]) -> None:
        complete = all(query.get(name) for name in ("service", "ts", "nonce")) and len(query.get("scope", ())) == 2
        if self.registry.refuses_tokens or not complete:
            return self._send(401, b'{"error":"unauthorized"}')
        token = json.dumps({"token": self.registry.new_token()}).encode()
        return self._send(200, token if self.registry.token_answer is None else self.registry.token_answer)

    def _token(self) -> str | None:
        value = self.headers.get("Authorization")
        return None if value is None else value.removeprefix("Bearer ")

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self._begin(status, {**(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.registry.asked.append(
            Asked(
                method=self.command,
                path=urlsplit(self.path).path,
                host=self.headers.get("Host", ""),
                status=status,
                token=self._token(),
                range=self.headers.get("Range"),
                headers=dict(self.headers),
            )
        )
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass
