"""OLLAMA_HOST, as Ollama reads it: where a server listens, and which one a command asks, where nothing of Pagoda's own says so."""

import os
from dataclasses import dataclass

_DEFAULT_PORTS = {"http": 80, "https": 443}
_OLLAMA_PORT = 11434


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaHost:
    """A server's address, to listen on or to ask."""

    host: str
    port: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return (
            f"{self.scheme}://[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.scheme}://{self.host}:{self.port}"
        )


def ollama_host() -> OllamaHost | None:
    """OLLAMA_HOST as Ollama reads it: `host`, `host:port`, `:port`, an address or a URL; None where it is unset or empty.

    Without a port it is Ollama's, 11434, or the URL's own. Without a host it is this machine alone. Raises ValueError.
    """
    text = os.environ.get("OLLAMA_HOST", "").strip().strip("\"'").strip()
    if not text:
        return None
    scheme, is_url, rest = text.rpartition("://")
    rest = rest.partition("/")[0]
    if is_url and scheme not in _DEFAULT_PORTS:
        raise _wrong(text)
    host, port = _split(rest)
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise _wrong(text)
    default = _DEFAULT_PORTS[scheme] if is_url else _OLLAMA_PORT
    return OllamaHost(host=host or "127.0.0.1", port=int(port or default), scheme=scheme or "http")


def _split(text: str) -> tuple[str, str]:
    """The host without brackets, and the port, which may be missing."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets has no port.
    return (text, "") if not colon or ":" in host else (host, port)


def _wrong(text: str) -> ValueError:
    return ValueError(f"OLLAMA_HOST is {text!r}; write it as host, host:port, :port or http://host:port, or unset it")
