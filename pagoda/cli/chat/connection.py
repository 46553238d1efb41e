"""Which server a chat talks to: the one that was named, the one that runs here, or one started for the time of the chat.

Knows nothing about what is said.
"""

import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from pagoda.cli.chat.own_server import OwnServer
from pagoda.cli.failure import CommandError, ServerError, ServerUnreachableError
from pagoda.cli.fetch import fetch_model, progress_display
from pagoda.cli.ollama_api import DEFAULT_SERVER, OllamaAPI, server_url
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.sources import Progress, Stage

JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where to look for one."""

    home: Path
    address: str | None = None
    """As --server or PAGODA_HOST name it. Then that one is meant and no other."""
    api_key: str | None = None

    def connect(self, model: str | None) -> "Connection":
        """To a server that has the model, or any model where None is asked for. Raises CommandError."""
        if self.address is not None:
            return self._connect_named(self.address, model)
        connection = self._connect_running(model)
        return connection or self._connect_own(model or DEFAULT_MODEL)

    def _connect_named(self, address: str, model: str | None) -> "Connection":
        api = OllamaAPI(server_url(address), self.api_key)
        try:
            return _open_or_pull(api, model or _first_model(api))
        except CommandError:
            api.close()
            raise

    def _connect_running(self, model: str | None) -> "Connection | None":
        """None where no server runs at the default address, or it is not ours, or it has not got the model."""
        api = OllamaAPI(DEFAULT_SERVER, self.api_key)
        try:
            return _open(api, model or _first_model(api))
        except (ServerUnreachableError, ServerError) as error:
            api.close()
            if isinstance(error, ServerError) and error.status not in (200, 404):
                raise
            return None

    def _connect_own(self, model: str) -> "Connection":
        fetched = fetch_model(self.home, model)
        _say(f"No server has {fetched.name} loaded; starting one for this chat.")
        server = OwnServer(model, self.home)
        try:
            with _status(f"Loading {fetched.name} …"):
                server.wait_until_ready()
            api = OllamaAPI(server.url, server.api_key)
            return _open(api, _first_model(api), server)
        except BaseException:
            server.close()
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    api: OllamaAPI
    model: str
    shown: JSONObject
    """The model as /api/show describes it."""
    own: OwnServer | None

    def close(self) -> None:
        self.api.close()
        if self.own is not None:
            with _status("Stopping the server …"):
                self.own.close()


def _open(api: OllamaAPI, model: str, own: OwnServer | None = None) -> Connection:
    api.load(model)
    return Connection(api=api, model=model, shown=api.show(model), own=own)


def _first_model(api: OllamaAPI) -> str:
    models = api.running() or api.tags()
    if not models:
        raise ServerError(f"the server at {api.url} has no models; fetch one: pagoda pull {DEFAULT_MODEL}", 404)
    return str(models[0]["name"])


def _open_or_pull(api: OllamaAPI, model: str) -> Connection:
    try:
        return _open(api, model)
    except ServerError as error:
        if error.status != 404:
            raise
    if api.is_pagoda():  # It serves what it was started with, so that pulling would not help.
        raise CommandError(
            f"the server at {api.url} has no model '{model}'; start one that has: pagoda serve --model {model}"
        )
    _pull(api, model)
    return _open(api, model)


def _pull(api: OllamaAPI, model: str) -> None:
    """All layers as one download."""
    totals: dict[str, int] = {}
    completed: dict[str, int] = {}
    with progress_display(model) as on_progress, closing(api.pull(model)) as lines:
        for line in lines:
            if digest := line.get("digest"):
                totals[digest] = line.get("total", 0)
                completed[digest] = line.get("completed", 0)
                progress = Progress(
                    stage=Stage.DOWNLOADING,
                    completed_bytes=sum(completed.values()),
                    total_bytes=sum(totals.values()),
                )
                on_progress(progress)


def _status(words: str) -> Status:
    """Beside a spinner, on a terminal; nowhere else."""
    return Console(stderr=True).status(words)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
