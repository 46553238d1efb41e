"""Options and arguments that several commands share, their shell completion, and their defaults.

OLLAMA_HOST is the address that a server listens on and that a command connects to. Pagoda's own options and variables override it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Home = Annotated[
    Path | None, typer.Option(envvar="PAGODA_HOME", help="Directory of models, logs and state. (default: ~/.pagoda)")
]
Server = Annotated[
    str | None,
    typer.Option(
        envvar="PAGODA_HOST",
        metavar="URL",
        help="Address of the server to use. (default: OLLAMA_HOST, else http://127.0.0.1:8000)",
    ),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow a registry that is reached over plain HTTP.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_OLLAMA_PORT = 11434


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaHost:
    """The address of a server, to listen on or to connect to."""

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
    """Return the address in OLLAMA_HOST, or None if it is not set. Exit with an error if it is malformed."""
    from pagoda.cli.failure import fail

    try:
        return ollama_host()
    except ValueError as error:
        fail(str(error))


def named_server(server: str | None) -> str | None:
    """Return the server that the user named by --server, PAGODA_HOST or OLLAMA_HOST, or None."""
    if server is not None:
        return server
    ollama = named_by_ollama()
    return None if ollama is None else ollama.url


_PULLING = ("pull", "run", "serve")


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Return matching names of the store, and of the catalogue for commands that pull models.

    Reads only manifests, because a user waits for the completion.
    """
    from pagoda.models.catalogue import CATALOGUE
    from pagoda.models.errors import ModelFormatError
    from pagoda.models.formats.safetensors_file import read_json
    from pagoda.models.store import ModelStore

    store = ModelStore(resolve_home(context.params.get("home")))
    names = {entry.name for entry in CATALOGUE} if context.info_name in _PULLING else set()
    for manifest in store.manifests():
        try:
            read_json(manifest)
        except (OSError, ModelFormatError):
            continue  # Damaged models are left out; `pagoda doctor` reports them.
        names.add(store.name_at(manifest))
    return sorted(name for name in names if name.lower().startswith(incomplete.lower()))


def api_key() -> str | None:
    """Return PAGODA_API_KEY. There is no option for it, because every user of the machine can read a command line."""
    return os.environ.get("PAGODA_API_KEY") or None


def ollama_host() -> OllamaHost | None:
    """Return the address in OLLAMA_HOST, which Ollama reads as `host`, `host:port`, `:port`, an IP address or a URL.

    The default port is 11434, or the default of the URL's scheme; the default host is 127.0.0.1. Returns None if the variable is
    unset or empty. Raises ValueError if it is malformed.
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
    """Return the host without brackets, and the port, or "" if there is none."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    host, colon, port = text.rpartition(":")
    # An IPv6 address without brackets cannot have a port.
    return (text, "") if not colon or ":" in host else (host, port)


def _wrong_ollama_host(text: str) -> ValueError:
    return ValueError(f"OLLAMA_HOST must be host, host:port, :port or http://host:port (got {text!r})")
