"""The options and arguments that several commands share, how they are completed, and what is left of them afterwards.

OLLAMA_HOST says where a server listens, and which one a command asks, where nothing of Pagoda's own does.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None, typer.Option(envvar="PAGODA_HOME", help="Where models, logs and state live. (default: ~/.pagoda)")
]
Server = Annotated[
    str | None,
    typer.Option(
        envvar="PAGODA_HOST",
        metavar="URL",
        help="The server to ask. (default: OLLAMA_HOST, else http://127.0.0.1:8000)",
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

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


def resolve_home(home: Path | None) -> Path:
    from pagoda.rpc.sockets import default_home

    return (home or default_home()).expanduser().absolute()


def named_by_ollama() -> OllamaHost | None:
    """OLLAMA_HOST, for a server to listen there and for a command to ask there."""
    from pagoda.cli.failure import fail

    try:
        return ollama_host()
    except ValueError as error:
        fail(str(error))


def named_server(server: str | None) -> str | None:
    """The server that the user named, as --server, PAGODA_HOST or OLLAMA_HOST."""
    if server is not None:
        return server
    ollama = named_by_ollama()
    return None if ollama is None else ollama.url


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the store and the catalogue. From the manifests alone, since a key was pressed and someone waits."""
    from pagoda.models.catalogue import CATALOGUE
    from pagoda.models.layout import StoreLayout

    home = resolve_home(context.params.get("home"))
    layout = StoreLayout(home)
    names = {entry.name for entry in CATALOGUE}
    for manifest in layout.manifests():
        try:
            json.loads(manifest.read_bytes())
        except (OSError, ValueError):
            continue  # A damaged model cannot be completed; `pagoda doctor` names it.
        names.add(layout.name_at(manifest.parent))
    return sorted(name for name in names if name.startswith(incomplete.lower()))


def api_key() -> str | None:
    """Never an option here: everyone on the machine can read a command line."""
    return os.environ.get("PAGODA_API_KEY") or None


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
        raise _wrong_ollama_host(text)
    host, port = _host_and_port(rest)
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise _wrong_ollama_host(text)
    default = _DEFAULT_PORTS[scheme] if is_url else _OLLAMA_PORT
    return OllamaHost(host=host or "127.0.0.1", port=int(port or default), scheme=scheme or "http")


def _host_and_port(text: str) -> tuple[str, str]:
    """The host without brackets, and the port, which may be missing."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets has no port.
    return (text, "") if not colon or ":" in host else (host, port)


def _wrong_ollama_host(text: str) -> ValueError:
    return ValueError(f"OLLAMA_HOST is {text!r}; write it as host, host:port, :port or http://host:port, or unset it")
