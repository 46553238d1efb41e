"""HTTP client of a registry: tokens, redirects to storage hosts, and small answers that are read whole."""

import base64
import json
import platform
import re
import secrets
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from pagoda.distribution import VERSION
from pagoda.models.errors import ModelAccessError, ModelSourceError
from pagoda.models.sources.file_request import is_same_origin
from pagoda.models.sources.interruption import SlowAnswerError, limited_stream

USER_AGENT = f"pagoda/{VERSION} ({platform.machine()} {platform.system().lower()}) Python/{platform.python_version()}"
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
RETRY_DELAYS_S = (0.5, 2.0)
"""Delays before a small request is sent again, in seconds."""
MAX_RETRY_AFTER_S = 30.0
MAX_ANSWER_S = 120.0
"""Longest duration of one small answer, in seconds."""

_MAX_ERROR_BYTES = 4096
_MAX_TOKEN_BYTES = 64 << 10
_MAX_UNREAD_BYTES = 64 << 10
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_BUSY = (408, 429, 500, 502, 503, 504)


class NotThereError(Exception):
    """The registry answered 404."""


@contextmanager
def open_client(registry_url: str) -> Iterator[httpx.Client]:
    """Open a client that sends the registry's token to no other host."""
    try:
        registry = httpx.URL(registry_url)
        is_address = bool(registry.host)
    except (httpx.InvalidURL, ValueError):
        is_address = False
    if not is_address:
        raise ModelSourceError(f"{registry_url[:200]!r} is not the address of a registry")
    with httpx.Client(
        auth=TokenAuth(registry),
        # Compressed answers have no ranges, and could be larger than announced.
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        timeout=TIMEOUT,
        follow_redirects=True,
        event_hooks={"response": [lambda response: _follow_location(response, registry)]},
    ) as client:
        yield client


class TokenAuth(httpx.Auth):
    """Bearer tokens for anonymous users. A token that is refused, because it has expired, is replaced once per request."""

    def __init__(self, registry: httpx.URL) -> None:
        self._registry = registry
        self._token = ""
        self._lock = threading.Lock()

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if not is_same_origin(request.url, self._registry):
            yield request
            return
        if token := self._token:
            request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        # After a redirect the answer may be another host's, which must not get a token.
        if response.status_code != 401 or not is_same_origin(response.request.url, self._registry):
            return
        with self._lock:
            if self._token == token:  # no other thread has replaced it
                self._token = self._new_token(response.headers.get("WWW-Authenticate", ""))
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def _new_token(self, challenge: str) -> str:
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_PARAMETER.findall(rest))
        if scheme.lower() != "bearer" or "realm" not in parameters:
            raise ModelAccessError(f"{self._registry.host} asks for a login that Pagoda does not support; {_PRIVATE}")
        try:
            realm = httpx.URL(parameters["realm"])
            is_own = is_same_origin(realm, self._registry)
        except (httpx.InvalidURL, ValueError):
            is_own = False
        if not is_own:
            raise ModelAccessError(
                f"{self._registry.host} sends clients to another server for a token "
                f"({parameters['realm'][:100]!r}), which is not allowed"
            )
        query = [
            ("service", parameters.get("service", "")),
            *(("scope", scope) for scope in parameters.get("scope", "").split()),
            ("ts", str(int(time.time()))),
            ("nonce", base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")),
        ]
        return self._ask_for_token(realm.copy_merge_params(query))

    def _ask_for_token(self, url: httpx.URL) -> str:
        """Ask the token service. Raises httpx.TransportError for a failure that may pass, so that the request is retried."""
        with httpx.Client(headers={"User-Agent": USER_AGENT}, timeout=TIMEOUT) as client:
            answer = _get(client, url, {}, _MAX_TOKEN_BYTES)
        if answer.status in _BUSY:
            raise httpx.TransportError(f"the service for tokens answered {answer.status}")
        try:
            token = json.loads(answer.body)["token"] if answer.status == 200 else None
        except (ValueError, KeyError, TypeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable() or not token:
            raise ModelAccessError(f"{self._registry.host} gives no token to anonymous users; {_PRIVATE}")
        return token


def get_small(
    client: httpx.Client, url: str, *, max_bytes: int, headers: Mapping[str, str] | None = None, retries: bool = True
) -> bytes:
    """Return the body of a small answer. Of a longer one, the first `max_bytes` + 1 bytes are returned.

    Raises NotThereError for a 404, ModelSourceError or ModelAccessError otherwise. Failures that may pass are retried.
    """
    asked = httpx.URL(url)
    host = asked.host
    for delay in (*(RETRY_DELAYS_S if retries else ()), None):
        wait_s = delay
        try:
            answer = _get(client, asked, headers or {}, max_bytes)
        except httpx.TooManyRedirects:
            raise ModelSourceError(f"{host} redirects without end; try again later") from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:
            # Impossible names of hosts raise ValueError, and impossible ports OverflowError.
            problem = unreachable(host, error)
            may_pass = isinstance(error, httpx.TransportError) and not isinstance(error, SlowAnswerError)
            if not may_pass or is_certificate_error(error):
                wait_s = None
        else:
            if answer.status == 200:
                return answer.body
            if answer.status == 404:
                raise NotThereError
            is_own = is_same_origin(answer.url, asked)
            if answer.status in (401, 403) and is_own:
                raise ModelAccessError(f"{host} refuses access ({answer.status}); {_PRIVATE}")
            # The text of another host, to which the registry has sent us, is not for the user.
            problem = refusal(answer.url.host, answer.status, answer.body if is_own else b"")
            if answer.status not in _BUSY:
                wait_s = None
            elif wait_s is not None:
                wait_s = min(max(wait_s, _retry_after(answer.headers)), MAX_RETRY_AFTER_S)
        if wait_s is None:
            break
        time.sleep(wait_s)
    raise ModelSourceError(problem)


def unreachable(host: str, error: Exception) -> str:
    """Return a sentence about a connection that failed."""
    reason = str(error) or type(error).__name__
    if is_certificate_error(error):
        return (
            f"the certificate of {host} is not trusted: {reason[:200]}; for an authority of your own, set SSL_CERT_FILE"
        )
    if "SSL" in reason:
        return f"{host} does not speak TLS: {reason[:200]}; for a registry without TLS, use --insecure"
    return f"{host} cannot be reached: {reason[:200]}; check the network, and try again"


def is_certificate_error(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def refusal(host: str, status: int, body: bytes) -> str:
    """Return a sentence about an answer that is an error."""
    if status == 429:
        return f"{host} has received too many requests from here (429); try again later"
    text = " ".join(body.decode(errors="replace").split())[:200]
    said = f": {text}" if text.isprintable() and text and not text.startswith("<") else ""
    return f"{host} answered {status}{said}; try again later"


_PRIVATE = (
    "private models need an ssh key that is known there, which is not supported; "
    "pull the model with Ollama, whose models Pagoda serves in place"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    url: httpx.URL
    """Address that answered, after redirects."""


def _get(client: httpx.Client, url: httpx.URL, headers: Mapping[str, str], max_bytes: int) -> _Answer:
    """Return the answer. Of a body that is too long, the first bytes are returned."""
    with limited_stream(client, url, MAX_ANSWER_S, headers=dict(headers)) as response:
        limit = max_bytes if response.status_code == 200 else _MAX_ERROR_BYTES
        body = bytearray()
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > limit:
                break
        return _Answer(
            status=response.status_code, headers=response.headers, body=bytes(body[: limit + 1]), url=response.url
        )


def _retry_after(headers: httpx.Headers) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _follow_location(response: httpx.Response, registry: httpx.URL) -> None:
    """Make a redirect of an answer to a blob that has a Location, whatever its status is, as Ollama's client does.

    A long body of an answer that is not used is not read.
    """
    request = response.request
    is_blob = "/blobs/sha256:" in request.url.path and is_same_origin(request.url, registry)
    to = response.headers.get("Location")
    if is_blob and response.is_success and to not in (None, str(request.url), request.url.raw_path.decode()):
        response.status_code = 307
    if response.has_redirect_location or response.status_code == 401:
        length = response.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_UNREAD_BYTES:
            assert isinstance(response.stream, httpx.SyncByteStream)
            response.stream.close()
            response.stream = httpx.ByteStream(b"")
