"""Chooses the server of a chat: the one that the user named, the one that runs on this machine, or one started for the chat.

A server that does not have the model pulls it by name, or receives its files, which it keeps under the files' name.
"""

import re
import sys
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from pagoda.cli.chat.own_server import OwnServer
from pagoda.cli.failure import CommandError, ServerError, ServerUnreachableError
from pagoda.cli.fetch import fetch_model, progress_display
from pagoda.cli.ollama_api import DEFAULT_SERVER, OllamaAPI, server_url
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelError
from pagoda.models.formats.description import files_to_copy
from pagoda.models.model import Model
from pagoda.models.names import DEFAULT_TAG, is_path
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.store import ModelStore

JSONObject = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers that a chat may use."""

    home: Path
    address: str | None = None
    """Address from --server, PAGODA_HOST or OLLAMA_HOST. If set, no other server is used."""
    api_key: str | None = None
    insecure: bool = False
    """True if a registry may be reached over plain HTTP."""

    def connect(self, model: str | None) -> "Connection":
        """Connect to a server that has the model, or any model if None. Raises CommandError or ModelError."""
        if self.address is not None:
            return self._connect_named(self.address, model)
        connection = self._connect_running(model)
        return connection or self._connect_own(model or DEFAULT_MODEL)

    def _connect_named(self, address: str, model: str | None) -> "Connection":
        api = OllamaAPI(server_url(address), self.api_key)
        try:
            return self._open_or_bring(api, model or _first_model(api))
        except (CommandError, ModelError):
            api.close()
            raise

    def _connect_running(self, model: str | None) -> "Connection | None":
        """Connect to the server at the default address. Return None if there is none, it is not Pagoda, or cannot get the model."""
        api = OllamaAPI(DEFAULT_SERVER, self.api_key)
        try:
            if api.is_pagoda():
                return self._open_or_bring(api, model or _first_model(api))
        except ServerUnreachableError:
            pass
        except ServerError as error:
            if error.status not in (200, 404):
                api.close()
                raise
        except ModelError:
            api.close()
            raise
        api.close()
        return None

    def _open_or_bring(self, api: OllamaAPI, model: str) -> "Connection":
        """Open the model; if the server lacks it, let it pull the model or upload it. Raises ServerError or ModelError."""
        if not is_path(model):
            try:
                return _open(api, model)
            except ServerError as error:
                if error.status != 404:
                    raise
            if not Path(model).exists():
                _pull(api, model, insecure=self.insecure)
                return _open(api, model)
        store = ModelStore(self.home)
        with _status(f"Uploading {model} to {api.url} …"):
            name = _upload(api, store.get(model), store.digests)
        return _open(api, name)

    def _connect_own(self, model: str) -> "Connection":
        fetched = fetch_model(self.home, model, insecure=self.insecure)
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
    """A server with a loaded model."""

    api: OllamaAPI
    model: str
    shown: JSONObject
    """The model as /api/show describes it."""
    own: OwnServer | None
    """The server itself if it was started for this chat. `close` stops it."""

    def close(self) -> None:
        self.api.close()
        if self.own is not None:
            with _status("Stopping the server …"):
                self.own.close()


def _open(api: OllamaAPI, model: str, own: OwnServer | None = None) -> Connection:
    # First, because a server that pulls on demand would load a model that it lacks without progress.
    shown = api.show(model)
    api.load(model)
    return Connection(api=api, model=model, shown=shown, own=own)


def _pull(api: OllamaAPI, model: str, *, insecure: bool) -> None:
    """Let the server pull the model, shown as one download of all files. Raises ServerError."""
    totals: dict[str, int] = {}
    completed: dict[str, int] = {}
    stage = Stage.RESOLVING
    after_interrupt = f"The server at {api.url} continues to download {model}."
    with progress_display(model, after_interrupt) as on_progress, closing(api.pull(model, insecure=insecure)) as lines:
        for line in lines:
            if digest := line.get("digest"):
                stage = Stage.DOWNLOADING
                totals[digest] = line.get("total", 0)
                completed[digest] = line.get("completed", 0)
            elif str(line.get("status", "")).startswith("verifying"):
                stage = Stage.VERIFYING
            total = sum(totals.values())
            on_progress(Progress(stage=stage, completed_bytes=sum(completed.values()), total_bytes=total))


def _upload(api: OllamaAPI, model: Model, digests: DigestCache) -> str:
    """Upload the model unless the server has it; return its name there. Raises ServerError."""
    there = {str(each["name"]): each.get("digest") for each in api.tags()}
    same = next((name for name, digest in there.items() if digest == model.digest), None)
    if same is not None:
        return same
    paths = files_to_copy(model.path)
    files = {path.name: f"sha256:{digests.file_digest(path)}" for path in paths}
    for path in paths:
        if not api.has_blob(files[path.name]):
            api.upload_blob(files[path.name], path)
    name = _free_name(model, there)
    for _ in api.create({"model": name, "files": files}):
        pass
    return name


def _free_name(model: Model, taken: Collection[str]) -> str:
    """Return a valid name made from the model's, which no other model of the server has."""
    name = re.sub(r"[^a-z0-9._-]+", "-", model.name.lower()).strip("-._")[:79] or "model"
    return name if f"{name}:{DEFAULT_TAG}" not in taken else f"{name}:{model.digest[:12]}"


def _first_model(api: OllamaAPI) -> str:
    models = api.running() or api.tags()
    if not models:
        raise ServerError(f"the server at {api.url} has no models; name one: pagoda run {DEFAULT_MODEL}", 404)
    return str(models[0]["name"])


def _status(words: str) -> Status:
    """Return a spinner with the words beside it, which is shown only on a terminal."""
    return Console(stderr=True).status(Text(words))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
