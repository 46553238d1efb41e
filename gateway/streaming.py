"""Writing an answer while it grows: SSE and NDJSON lines, merged streams, and a client that leaves.

A client that leaves cancels whatever was computed for it, whether its answer is streamed or not. Knows nothing about dialects.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import orjson
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError
from pagoda.background import end_tasks

logger = logging.getLogger(__name__)

T = TypeVar("T")
JSONObject = dict[str, Any]
Lines = AsyncGenerator[bytes, None]
SSE_DONE = b"data: [DONE]\n\n"
# Proxies must neither store nor hold back what is meant to arrive at once.
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. The body must have been read before."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise GatewayError(ErrorKind.CLIENT_CLOSED, "The client closed the connection.")
        return working.result()
    finally:
        await end_tasks(working, leaving)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def stream_response(request: Request, lines: Lines, media_type: str) -> Response:
    """Waits for the first line, so that what fails before it still has a status of its own."""
    first = await unless_gone(request.receive, _first(lines))
    return LineStream(first, lines, media_type)


async def _first(lines: Lines) -> bytes:
    return await anext(lines)


class LineStream(Response):
    def __init__(self, first: bytes, rest: Lines, media_type: str) -> None:
        super().__init__(headers=_STREAM_HEADERS, media_type=media_type)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._write(send))
        except GatewayError as error:
            logger.debug("stream cut short", extra={"reason": error.message})  # nobody is left to hear of it

    async def _write(self, send: Send) -> None:
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for line in self._rest:
                await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def sse_lines(
    chunks: AsyncGenerator[JSONObject, None], error_body: Callable[[GatewayError], Mapping[str, Any]]
) -> Lines:
    return _lines(chunks, error_body, _sse_event, last=SSE_DONE)


def ndjson_lines(
    chunks: AsyncGenerator[JSONObject, None], error_body: Callable[[GatewayError], Mapping[str, Any]]
) -> Lines:
    return _lines(chunks, error_body, _ndjson_line)


def _sse_event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def _ndjson_line(chunk: Mapping[str, Any]) -> bytes:
    return orjson.dumps(chunk, option=orjson.OPT_APPEND_NEWLINE)


async def _lines(
    chunks: AsyncGenerator[JSONObject, None],
    error_body: Callable[[GatewayError], Mapping[str, Any]],
    line: Callable[[Mapping[str, Any]], bytes],
    last: bytes = b"",
) -> Lines:
    """Once something has been sent, an error is an event of the stream, its last one; before that it is raised."""
    begun = False
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield line(chunk)
                begun = True
    except Exception as error:
        if not begun:
            raise
        if not isinstance(error, GatewayError):
            logger.exception("stream failed")
            error = GatewayError(ErrorKind.INTERNAL, "Internal server error.")
        yield line(error_body(error))
    if last:
        yield last


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Items of all streams as they come. The first error ends them all."""
    items: asyncio.Queue[T | Exception | None] = asyncio.Queue(maxsize=len(streams))
    pumps = [asyncio.create_task(_pump(stream, items)) for stream in streams]
    num_open = len(streams)
    try:
        while num_open:
            item = await items.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield item
    finally:
        await end_tasks(*pumps)


async def _pump(stream: AsyncGenerator[T, None], items: "asyncio.Queue[T | Exception | None]") -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                await items.put(item)
    except Exception as error:
        await items.put(error)
    else:
        await items.put(None)
