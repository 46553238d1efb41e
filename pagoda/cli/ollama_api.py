"""A client of a server's Ollama API: one method per endpoint, errors as readable messages.

The JSON objects are those of Ollama's API.
"""

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from pagoda.cli.failure import CommandError, ServerError, ServerUnreachableError
from pagoda.rpc.sockets import is_loopback

DEFAULT_SERVER = "http://127.0.0.1:8000"
_DEFAULT_PORT = 8000
_CONNECT_TIMEOUT_S = 5.0

JSONObject = dict[str, Any]
Lines = Generator[JSONObject, None, None]
"""The objects of a streamed reply. Closing the generator closes the connection, which cancels a generation."""


def server_url(text: str) -> str:
    """Return the URL for the text of --server or PAGODA_HOST: a URL, `host` or `host:port`. Raises CommandError."""
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise CommandError(f"the server's address must be a URL such as {DEFAULT_SERVER}, or host:port (got {text!r})")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    port = port or {"https": 443}.get(parts.scheme, _DEFAULT_PORT if "://" not in text else 80)
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


class OllamaAPI:
    """A connection to one server. Methods raise ServerError for a refusal and ServerUnreachableError without an answer."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float | None = None) -> None:
        """Open a client. There is no time limit by default, because loading a model or a long prompt takes minutes."""
        self.url = url
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Proxy settings of the environment must not apply to this machine.
        trust_env = not is_loopback(urlsplit(url).hostname or "")
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=trust_env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def version(self) -> str:
        return str(self._object("GET", "/api/version").get("version", ""))

    def is_pagoda(self) -> bool:
        """Return True if the server is Pagoda: Ollama has no route `/ready`."""
        with self._answering():
            return self._client.get("/ready").status_code in (200, 503)

    def tags(self) -> list[JSONObject]:
        return list(self._object("GET", "/api/tags").get("models") or [])

    def running(self) -> list[JSONObject]:
        return list(self._object("GET", "/api/ps").get("models") or [])

    def queue(self) -> JSONObject | None:
        """Return the requests that wait for a worker. None if the server is not Pagoda, the key lacks the scope `admin`, or no
        scheduler answers."""
        try:
            return self._object("GET", "/queue")
        except ServerError as error:
            if error.status in (403, 404, 503):
                return None
            raise

    def show(self, model: str) -> JSONObject:
        return self._object("POST", "/api/show", {"model": model})

    def load(self, model: str, keep_alive: str | None = None) -> JSONObject:
        return self._object("POST", "/api/generate", _given(model=model, keep_alive=keep_alive))

    def unload(self, model: str) -> JSONObject:
        return self._object("POST", "/api/generate", {"model": model, "keep_alive": 0})

    def has_blob(self, digest: str) -> bool:
        with self._answering():
            return self._client.head(f"/api/blobs/{digest}").is_success

    def upload_blob(self, digest: str, path: Path) -> None:
        with self._answering(), path.open("rb") as file:
            # httpx streams the file; the header makes it send a length instead of chunks.
            headers = {"Content-Length": str(path.stat().st_size)}
            self._refuse_error(self._client.post(f"/api/blobs/{digest}", content=file, headers=headers))

    def create(self, body: JSONObject) -> Lines:
        return self._lines("/api/create", body)

    def pull(self, model: str, *, insecure: bool = False) -> Lines:
        return self._lines("/api/pull", _given(model=model, insecure=insecure or None))

    def generate(
        self,
        model: str,
        prompt: str,
        options: Mapping[str, Any] | None = None,
        keep_alive: str | None = None,
        format: str | JSONObject | None = None,
        think: bool | str | None = None,
    ) -> Lines:
        body = _given(model=model, prompt=prompt, options=dict(options or {}) or None, keep_alive=keep_alive)
        body |= _given(format=format, think=think)
        return self._lines("/api/generate", body)

    def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        keep_alive: str | None = None,
        format: str | JSONObject | None = None,
        think: bool | str | None = None,
    ) -> Lines:
        body = _given(model=model, messages=list(messages), options=dict(options) or None, keep_alive=keep_alive)
        body |= _given(format=format, think=think)
        return self._lines("/api/chat", body)

    def _object(self, method: str, path: str, body: JSONObject | None = None) -> JSONObject:
        with self._answering():
            response = self._client.request(method, path, json=body)
            self._refuse_error(response)
            return self._parse(response.text)

    def _lines(self, path: str, body: JSONObject) -> Lines:
        with self._answering(), self._client.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
            self._refuse_error(response)
            for line in response.iter_lines():
                if line.strip():
                    yield self._checked(self._parse(line))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise ServerUnreachableError(f"no server answers at {self.url}; start one: pagoda serve") from None
        except httpx.HTTPError as error:
            raise ServerUnreachableError(
                f"the server at {self.url} closed the connection ({error}); see its logs"
            ) from None

    def _refuse_error(self, response: httpx.Response) -> None:
        if response.status_code == 401:
            if "authorization" in self._client.headers:
                raise ServerError(
                    f"the server at {self.url} refused the API key in PAGODA_API_KEY; set a valid one", 401
                )
            raise ServerError(f"the server at {self.url} requires an API key; set PAGODA_API_KEY", 401)
        if response.is_error:
            raise ServerError(_reason(response) or f"{self.url} answered {response.status_code}", response.status_code)

    def _checked(self, line: JSONObject) -> JSONObject:
        """Return the line. Raises ServerError if it is an error, which a stream sends as a line of its own."""
        if "error" in line:
            raise ServerError(str(line["error"]), 200)
        return line

    def _parse(self, text: str) -> JSONObject:
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise ServerError(
                f"the server at {self.url} does not speak Ollama's API; choose another with --server", 200
            )
        return value


def _given(**fields: Any) -> JSONObject:
    return {name: value for name, value in fields.items() if value is not None}


def _reason(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
