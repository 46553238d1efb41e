"""Streams of server-sent events and NDJSON lines, and the cancellation of work for a client that disconnects.

A client that disconnects cancels the work for its request, whether the answer is streamed or not.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import orjson
from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import ErrorKind, GatewayError
from pagoda.process.background import end_tasks

logger = logging.getLogger(__name__)

T = TypeVar("T")
ChunkT = TypeVar("ChunkT")
JSONObject = dict[str, Any]
SSE_DONE = b"data: [DONE]\n\n"
SSE_COMMENT = b": waiting\n\n"
# Proxies must neither cache nor buffer a stream.
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. Cancel it if the client disconnects. The request body must have been read before."""
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


class Lines(Generic[ChunkT]):
    """The encoded lines of a stream, one for each chunk.

    An error is raised while `begun` is false. Later it becomes the last line, before the end marker.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[ChunkT, None],
        error_body: Callable[[GatewayError], ChunkT],
        line: Callable[[ChunkT], bytes],
        last: bytes = b"",
    ) -> None:
        self.begun = False
        self._chunks = chunks
        self._error_body = error_body
        self._line = line
        self._last = last

    async def read_lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the lines, the end marker last."""
        line = self._line
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    yield line(chunk)
                    self.begun = True
        except Exception as error:
            if not self.begun:
                raise
            if not isinstance(error, GatewayError):
                logger.exception("stream failed")
                error = GatewayError(ErrorKind.INTERNAL, "Internal server error.")
            yield line(self._error_body(error))
        if self._last:
            yield self._last


def sse_lines(
    chunks: AsyncGenerator[JSONObject, None], error_body: Callable[[GatewayError], Mapping[str, Any]]
) -> Lines[Mapping[str, Any]]:
    """Return the chunks as server-sent events, ended by `[DONE]`."""
    return Lines(chunks, error_body, _sse_event, last=SSE_DONE)


def event_lines(
    chunks: AsyncGenerator[JSONObject, None], error_body: Callable[[GatewayError], Mapping[str, Any]]
) -> Lines[Mapping[str, Any]]:
    """Return the chunks as server-sent events that are named after their `type`, without an end marker."""
    return Lines(chunks, error_body, named_event)


def ndjson_lines(
    chunks: AsyncGenerator[JSONObject, None], error_body: Callable[[GatewayError], Mapping[str, Any]]
) -> Lines[Mapping[str, Any]]:
    """Return the chunks as lines of JSON."""
    return Lines(chunks, error_body, _ndjson_line)


def _sse_event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def named_event(chunk: Mapping[str, Any]) -> bytes:
    """Return a server-sent event that is named after the chunk's `type`."""
    name: str = chunk["type"]
    return b"event: " + name.encode() + b"\n" + _sse_event(chunk)


def _ndjson_line(chunk: Mapping[str, Any]) -> bytes:
    return orjson.dumps(chunk, option=orjson.OPT_APPEND_NEWLINE)


async def stream_response(
    request: Request, lines: Lines[Any], media_type: str, *, comment_every_s: float | None = None
) -> Response:
    """Return the response after its first line is ready, so that an error before that still has its own status.

    With `comment_every_s`, for server-sent events only, the response begins after that time at the latest, and comments keep any
    silence from lasting longer, since proxies close silent connections.
    """
    rest = lines.read_lines()
    first = asyncio.ensure_future(anext(rest))
    try:
        await unless_gone(request.receive, asyncio.wait({first}, timeout=comment_every_s))
    except BaseException:
        await end_tasks(first)
        raise
    if first.done():
        first.result()
    lines.begun = True
    return LineStream(first, rest, media_type, comment_every_s)


class LineStream(Response):
    """A response whose lines are sent as they become ready."""

    def __init__(
        self,
        first: asyncio.Future[bytes],
        rest: AsyncGenerator[bytes, None],
        media_type: str,
        comment_every_s: float | None,
    ) -> None:
        super().__init__(headers=_STREAM_HEADERS, media_type=media_type)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest
        self._comment_every_s = comment_every_s
        self._clock = asyncio.get_running_loop().time
        self._last_sent_s = self._clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._write(send))
        except GatewayError as error:
            logger.debug("stream cut short", extra={"reason": error.message})  # the client has left

    async def _write(self, send: Send) -> None:
        async with aclosing(self._rest):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            commenting = asyncio.create_task(self._comment(send))
            try:
                await send({"type": "http.response.body", "body": await self._first, "more_body": True})
                async for line in self._rest:
                    self._last_sent_s = self._clock()
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            finally:
                await end_tasks(commenting)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _comment(self, send: Send) -> None:
        """Send a comment whenever nothing was sent for `comment_every_s`, and immediately if the first line is not ready."""
        if self._comment_every_s is None:
            return
        is_due = not self._first.done()
        while True:
            if is_due:
                await send({"type": "http.response.body", "body": SSE_COMMENT, "more_body": True})
                self._last_sent_s = self._clock()
            await asyncio.sleep(max(0.0, self._last_sent_s + self._comment_every_s - self._clock()))
            is_due = self._last_sent_s + self._comment_every_s <= self._clock()


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the items of all streams as they arrive. The first error ends all streams."""
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
