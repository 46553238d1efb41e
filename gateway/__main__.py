"""The gateway's process, `python -m gateway`: an HTTP server that drains its open streams on SIGTERM or SIGINT."""

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Iterator
from math import ceil

import uvicorn
import uvloop
from fastapi import FastAPI
from opentelemetry.trace import Tracer

from gateway.app import create_app
from gateway.http.bounded_connection import http_protocol
from gateway.http.drain import Drain
from gateway.http.listen import ListenError, address_of, open_sockets
from gateway.models.served_model import ServedModel
from gateway.settings import GatewaySettings
from pagoda.api_keys.key_file import KeysError
from pagoda.models.errors import ModelError
from pagoda.models.header_store import find_or_fetch
from pagoda.process.background import end_tasks, keep_running, report_failure, tell_when_held
from pagoda.process.ending import end_on_stop_signal, on_stop_signal
from pagoda.process.logging import configure_logging
from pagoda.process.resources import keep_little_freed_memory
from pagoda.rpc.sockets import ForeignDirectoryError, make_socket_directory
from pagoda.telemetry.open_tracer import open_tracer

logger = logging.getLogger("gateway")

# Seconds for streams to end after they are cancelled at the end of the drain.
CANCEL_GRACE_S = 2


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the drain. Uvicorn itself would stop listening immediately, and end by the signal."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main() -> int:
    keep_little_freed_memory()
    settings = GatewaySettings.load()
    configure_logging(settings.log_level, settings.log_format)
    end_on_stop_signal()
    logger.info("starting", extra=settings.described())
    with open_tracer(settings.otlp_endpoint, "pagoda-gateway") as tracer:
        return _run(settings, tracer)


def _run(settings: GatewaySettings, tracer: Tracer) -> int:
    try:
        if not settings.scheduler:
            make_socket_directory(settings.home)
        models = [find_or_fetch(settings.home, each, ServedModel.check_model) for each in settings.models]
        app = create_app(settings, models, tracer=tracer)
    except (ModelError, KeysError, ForeignDirectoryError) as error:
        print(f"pagoda gateway: {error}", file=sys.stderr)
        return 1
    try:
        sockets = open_sockets(settings.host, settings.port, settings.ollama_port)
    except ListenError as error:
        print(f"pagoda gateway: {error}", file=sys.stderr)
        return 1
    return uvloop.run(_serve(settings, app, sockets))


async def _serve(settings: GatewaySettings, app: FastAPI, sockets: list[socket.socket]) -> int:
    app.state.gateway.addresses.extend(map(address_of, sockets))
    logger.info("listening", extra={"addresses": " ".join(app.state.gateway.addresses)})
    server = _Server(
        uvicorn.Config(
            app,
            http=http_protocol(settings.http_limits),
            timeout_keep_alive=ceil(settings.keep_alive_timeout_s),
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=CANCEL_GRACE_S,
        )
    )
    stop = asyncio.Event()
    on_stop_signal(stop.set)
    ending = asyncio.create_task(_end_on(stop, server, app.state.gateway.drain, settings))
    ending.add_done_callback(report_failure)
    telling = keep_running("event loop watch", tell_when_held)
    await server.serve(sockets)
    await end_tasks(ending, telling)
    return 0 if server.started else 1


async def _end_on(stop: asyncio.Event, server: uvicorn.Server, drain: Drain, settings: GatewaySettings) -> None:
    """Wait for `stop`, then report not ready, refuse new requests after a delay, wait for the open streams, and stop the server."""
    await stop.wait()
    try:
        drain.begin_drain()
        if settings.drain_delay_s:
            logger.info("gateway not ready; still accepting requests", extra={"delay_s": settings.drain_delay_s})
            await asyncio.sleep(settings.drain_delay_s)
        drain.refuse_requests()
        logger.info("draining", extra={"grace_s": settings.drain_grace_s})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_grace_s):
                await drain.wait_until_idle()
    finally:
        # Even after an error, a process that received a stop signal must end.
        server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
