"""The real gateway app in this process: on a free port of 127.0.0.1, in front of a fake scheduler, with the tiny model."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from gateway.app import create_app
from gateway.http.bounded_connection import HTTPLimits, http_protocol
from gateway.settings import GatewaySettings
from pagoda.models.catalogue import CATALOGUE, CatalogueEntry
from pagoda.models.store import ModelStore
from tests.fakes.documented_replies import DocumentedReplies
from tests.fakes.scheduler import FakeScheduler
from tests.fakes.tiny_model import write_tiny_gguf

MODEL = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    app: FastAPI
    url: str
    http: httpx.AsyncClient
    scheduler: FakeScheduler


@asynccontextmanager
async def running_gateway(
    directory: Path,
    *,
    catalogue: Sequence[CatalogueEntry] = CATALOGUE,
    max_model_len: int = 512,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    """Run the gateway while the block runs, with its session open and the scheduler's health known.

    The path of `directory` must be short enough for a unix socket.
    The gateway serves the tiny model, unless the settings name another one of the store.
    """
    model_path = directory / f"{MODEL}.gguf"
    if not model_path.exists():
        write_tiny_gguf(model_path)
    models = [ModelStore(directory).get(each) for each in settings.get("model", str(model_path)).split(",")]
    async with FakeScheduler(f"unix:{directory / 's.sock'}", models[0].name, max_model_len) as scheduler:
        app = create_app(
            GatewaySettings(home=directory, scheduler=scheduler.address, **settings), models, catalogue=catalogue
        )
        async with serving(DocumentedReplies(app)) as url, httpx.AsyncClient(base_url=url, timeout=200) as http:
            await scheduler.session_opened.wait()
            while app.state.gateway.schedulers.problem:  # noqa: ASYNC110  # health is watched beside the session
                await asyncio.sleep(0.001)
            yield RunningGateway(app=app, url=url, http=http, scheduler=scheduler)


@asynccontextmanager
async def serving(app: ASGIApp, limits: HTTPLimits | None = None, keep_alive_s: int = 200) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # On a busy machine seconds pass between two requests. A client that uses a connection while it is closed gets an error.
        config = uvicorn.Config(
            app,
            http=http_protocol(limits or HTTPLimits()),
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive_s,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
