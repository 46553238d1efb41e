"""The options and arguments that several commands share, how they are completed, and what is left of them afterwards."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pagoda.cli.ollama_host import OllamaHost, ollama_host

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
