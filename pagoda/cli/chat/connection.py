"""Which server a chat talks to: the one that was named, the one that runs here, or one started for the time of the chat.

A server that has not got the model fetches it by its name, or is given its files, which it keeps under the files' name.
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

from pagoda.cli.chat.own_server import OwnServer
from pagoda.cli.failure import CommandError, ServerError, ServerUnreachableError
from pagoda.cli.fetch import fetch_model, progress_display
from pagoda.cli.ollama_api import DEFAULT_SERVER, OllamaAPI, server_url
from pagoda.models.catalogue import DEFAULT_MODEL, DEFAULT_TAG
from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelError
from pagoda.models.model import Model
from pagoda.models.model_editor import CHECKPOINT_SUFFIXES
from pagoda.models.sources import Progress, Stage
from pagoda.models.store import ModelStore

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
            return self._open_or_bring(api, model or _first_model(api))
        except (CommandError, ModelError):
            api.close()
            raise

    def _connect_running(self, model: str | None) -> "Connection | None":
        """None where no server runs at the default address, or it is not ours, or it cannot get the model."""
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
        """A model that the server has not got is pulled by it, or given to it. Raises ServerError or ModelError."""
        if not _is_path(model):
            try:
                return _open(api, model)
            except ServerError as error:
                if error.status != 404:
                    raise
            if not Path(model).exists():
                _pull(api, model)
                return _open(api, model)
        store = ModelStore(self.home)
        with _status(f"Giving {model} to the server at {api.url} …"):
            name = _upload(api, store.get(model), store.digests)
        return _open(api, name)

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


def _is_path(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or model.endswith(".gguf")


def _pull(api: OllamaAPI, model: str) -> None:
    """All layers as one download. Raises ServerError."""
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


def _upload(api: OllamaAPI, model: Model, digests: DigestCache) -> str:
    """Return the name that the model has at the server, which has it afterwards. Raises ServerError."""
    there = {str(each["name"]): each.get("digest") for each in api.tags()}
    same = next((name for name, digest in there.items() if digest == model.digest), None)
    if same is not None:
        return same
    files = {path.name: f"sha256:{digests.file_digest(path)}" for path in _files(model)}
    for path in _files(model):
        if not api.has_blob(files[path.name]):
            api.upload_blob(files[path.name], path)
    name = _free_name(model, there)
    for _ in api.create({"model": name, "files": files}):
        pass
    return name


def _files(model: Model) -> list[Path]:
    if model.path.is_file():
        return [model.path]
    return sorted(file for file in model.path.iterdir() if file.is_file() and file.suffix in CHECKPOINT_SUFFIXES)


def _free_name(model: Model, taken: Collection[str]) -> str:
    """The files' own, in the characters that a name may have; no other model of the server loses its."""
    name = re.sub(r"[^a-z0-9._-]+", "-", model.name.lower()).strip("-._")[:79] or "model"
    return name if f"{name}:{DEFAULT_TAG}" not in taken else f"{name}:{model.digest[:12]}"


def _first_model(api: OllamaAPI) -> str:
    models = api.running() or api.tags()
    if not models:
        raise ServerError(f"the server at {api.url} has no models; fetch one: pagoda pull {DEFAULT_MODEL}", 404)
    return str(models[0]["name"])


def _status(words: str) -> Status:
    """Beside a spinner, on a terminal; nowhere else."""
    return Console(stderr=True).status(words)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
