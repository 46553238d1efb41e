"""HTTP as the gateway speaks it: uvicorn's protocol, which would send chunks to clients of HTTP/1.0 too, as to all others."""

from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.http.bounded_connection import BoundedConnection
from gateway.http.http_limits import HTTPLimits


def http_protocol(limits: HTTPLimits) -> "type[HTTPProtocol]":
    """Return the protocol class of a server with these limits."""
    return type("LimitedHTTPProtocol", (HTTPProtocol,), {"limits": limits})


class HTTPProtocol(BoundedConnection):
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, app if cycle.scope["http_version"] == "1.1" else _unchunked(app, cycle))


def _unchunked(app: ASGIApp, cycle: RequestResponseCycle) -> Any:
    """An answer of unknown length ends with the connection, since HTTP/1.0 (nginx's default upstream) has no chunks."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        is_open_ended = False

        async def send_unchunked(message: Message) -> None:
            nonlocal is_open_ended
            if message["type"] == "http.response.start":
                is_open_ended = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if is_open_ended:
                cycle.chunked_encoding = False
                cycle.keep_alive = False
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_unchunked)

    return answer
