"""Tests of the limits of a connection: size and time of a request's head, time of its body, and number of connections."""

import asyncio
import functools
import json
import logging
import resource
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import uvloop
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse

from gateway.http.bounded_connection import RESERVED_FILES, SLICE_BYTES, BoundedConnection, HTTPLimits
from tests.fakes.gateway import serving
from tests.fakes.log_records import own_records
from tests.fakes.waiting import until

SHORT_S = 0.05
LONG_S = 3600.0
GET = "GET /path HTTP/1.1\r\nhost: x\r\n\r\n"


def on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on uvloop, as the gateway does: its transports differ from asyncio's."""

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        uvloop.run(test(**arguments))

    return run


class Client:
    """A client that controls the bytes of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def send(self, text: str | bytes) -> None:
        self.writer.write(text if isinstance(text, bytes) else text.encode())

    async def everything(self) -> bytes:
        """Return what arrives until the server closes the connection."""
        try:
            return await self._reader.read()
        except ConnectionResetError:
            return b""

    async def until(self, end: bytes) -> None:
        await self._reader.readuntil(end)

    async def answer(self) -> tuple[int, Any]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length"))
        return int(head.split()[1]), json.loads(await self._reader.readexactly(length))


def echo_app() -> FastAPI:
    app = FastAPI()

    @app.get("/path")
    async def path() -> str:
        return "here"

    @app.post("/v1/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


@asynccontextmanager
async def connecting(keep_alive_s: int = 200, **limits: Any) -> AsyncIterator[Any]:
    """Yield a function that connects to a server with these limits; other limits are never reached."""
    unreached = {"header_timeout_s": LONG_S, "body_timeout_s": LONG_S, "write_timeout_s": LONG_S}
    clients: list[Client] = []
    async with serving(echo_app(), HTTPLimits(**(unreached | limits)), keep_alive_s) as url:
        port = int(url.rpartition(":")[2])

        async def connect(text: str | bytes = "") -> Client:
            clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
            clients[-1].send(text)
            return clients[-1]

        yield connect
        for client in clients:
            client.writer.close()


@on_uvloop
async def test_within_the_limits() -> None:
    async with connecting() as connect:
        client = await connect()
        for _ in range(3):
            client.send(GET)
            assert await client.answer() == (200, "here")
        client.send("POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 70000\r\n\r\n" + "a" * 70_000 + GET)
        assert await client.answer() == (200, 70_000)
        assert await client.answer() == (200, "here")


@on_uvloop
async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """Answers keep the order of requests, also if there are more requests than are parsed at a time."""
    sizes = [size * 37 % 1009 for size in range(500)] + [300_000, 5, 70_000]
    async with connecting() as connect:
        client = await connect()
        for size in sizes:
            client.send(f"POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n" + "a" * size + GET)
        for size in sizes:
            assert await client.answer() == (200, size)
            assert await client.answer() == (200, "here")
        client.send(GET)
        assert await client.answer() == (200, "here")


@on_uvloop
async def test_few_requests_are_parsed_ahead_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is read ahead of a slow request, even if its handler asks whether the client has left."""
    made: list[BoundedConnection] = []
    make = BoundedConnection.connection_made

    def noted(connection: BoundedConnection, transport: asyncio.Transport) -> None:
        made.append(connection)
        make(connection, transport)

    monkeypatch.setattr(BoundedConnection, "connection_made", noted)
    app, may_end = echo_app(), asyncio.Event()

    @app.post("/long")
    async def long(request: Request) -> str:
        await request.body()
        leaving = asyncio.ensure_future(request.receive())
        await may_end.wait()
        leaving.cancel()
        return "done"

    async with serving(app, HTTPLimits()) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.send("POST /long HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na")
        client.send(GET * 40_000)
        await until(lambda: bool(made and made[0].pipeline))
        for _ in range(100):
            await asyncio.sleep(0)
        assert 1 <= len(made[0].pipeline) <= SLICE_BYTES // len(GET) and len(made[0]._unread) <= 2**20
        may_end.set()
        assert await client.answer() == (200, "done")
        for _ in range(1500):
            assert await client.answer() == (200, "here")
            assert len(made[0].pipeline) <= SLICE_BYTES // len(GET) and len(made[0]._unread) <= 2**20
        client.writer.close()


@pytest.mark.parametrize("behind", ["", GET, GET * 3])
@pytest.mark.parametrize("end", ["leave", "nonsense"])
@on_uvloop
async def test_a_stream_with_requests_behind_it_ends_with_its_connection(
    caplog: pytest.LogCaptureFixture, behind: str, end: str
) -> None:
    """The stream's handler is notified, and no other answer is written into the stream."""
    app, left = echo_app(), asyncio.Event()

    @app.get("/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            try:
                yield b"begun"
                for _ in range(100_000):
                    yield b"more"
                    await asyncio.sleep(0.001)
            finally:
                left.set()

        return StreamingResponse(lines())

    async with serving(app, HTTPLimits()) as url:
        client = Client(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        client.send("GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        await client.until(b"begun\r\n")
        client.send(behind + ("\0\r\n\r\n" if end == "nonsense" else ""))
        if end == "leave":
            client.writer.close()
        else:
            assert b"HTTP/1.1" not in await client.everything()
        await left.wait()
        client.writer.close()
    assert not [record for record in own_records(caplog) if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("before", "endless", "status"),
    [
        ("GET /api/", "a", 431),
        ("GET /api/tags HTTP/1.1\r\nx: ", "a", 431),
        ("GET /api/tags HTTP/1.1\r\n", "a: b\r\n", 431),
        ("GET /api/tags HTTP/1.1\r\n", "name", 431),
        ("POST /v1/echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "a: b\r\n", 431),
        ("POST /v1/echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ", "a", 431),
        ("POST /v1/echo HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x=", "a", 431),
    ],
)
@on_uvloop
async def test_a_head_without_end(before: str, endless: str, status: int) -> None:
    async with connecting(max_header_bytes=4096) as connect:
        client = await connect(before)
        sent = 0
        answering = asyncio.create_task(client.answer())
        while not answering.done() and sent < 10_000_000:
            client.send(endless * 1024)
            sent += len(endless) * 1024
            await asyncio.sleep(0)
        assert sent < 10_000_000
        answered, body = await answering
        assert answered == status and "4096 bytes" in json.dumps(body)
        assert isinstance(body["error"], str) is before.startswith("GET /api")


@pytest.mark.parametrize("text", ["", "\r\n", "G", "GET /path HTTP/1.1\r\n", "GET /path HTTP/1.1\r\nx: y"])
@on_uvloop
async def test_a_head_that_does_not_come(text: str) -> None:
    async with connecting(header_timeout_s=SHORT_S) as connect:
        answer = await (await connect(text)).everything()
        assert answer == b"" if not text.strip() else answer.startswith(b"HTTP/1.1 408 ")


@on_uvloop
async def test_a_head_that_drips() -> None:
    """A head that arrives byte by byte times out: a byte does not renew the time."""
    async with connecting(header_timeout_s=SHORT_S) as connect:
        client = await connect("GET /path HTTP/1.1\r\n")
        answering = asyncio.create_task(client.everything())
        while not answering.done():
            client.send("x")
            await asyncio.sleep(SHORT_S / 10)
        assert (await answering)[:13] in (b"HTTP/1.1 408 ", b"")


@on_uvloop
async def test_a_body_that_does_not_come() -> None:
    async with connecting(body_timeout_s=SHORT_S) as connect:
        client = await connect("POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nabc")
        status, body = await client.answer()
        assert status == 408 and body["error"]["code"] == "request_timeout"
        assert await client.everything() == b""


@on_uvloop
async def test_a_slow_body_that_comes_fast_enough() -> None:
    """A body that brings 16 KiB in each interval is accepted."""
    async with connecting(body_timeout_s=0.5) as connect:
        size = 20 * 17_000
        client = await connect(f"POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n")
        for _ in range(20):
            client.send("a" * 17_000)
            await asyncio.sleep(0.05)
        assert await client.answer() == (200, size)


@on_uvloop
async def test_an_answer_that_is_not_read() -> None:
    app = FastAPI()
    left = asyncio.Event()

    @app.get("/path")
    async def path(request: Request) -> str:
        return "a" * 50_000_000

    async with serving(app, HTTPLimits(write_timeout_s=SHORT_S)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=1024)
        writer.write(GET.encode())
        await reader.readexactly(1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await asyncio.sleep(SHORT_S * 4)
            await reader.readexactly(50_000_000)
        writer.close()
        left.set()


@on_uvloop
async def test_an_idle_connection_stays_for_the_keep_alive_time() -> None:
    async with connecting(keep_alive_s=1, header_timeout_s=SHORT_S) as connect:
        client = await connect(GET)
        assert await client.answer() == (200, "here")
        assert await client.everything() == b""


@on_uvloop
async def test_the_connection_that_was_idle_longest_makes_room() -> None:
    async with connecting(max_connections=3) as connect:
        first, second, third = [await connect() for _ in range(3)]
        for client in (second, third, first, second):
            client.send(GET)
            assert await client.answer() == (200, "here")
            await asyncio.sleep(0.002)  # the loop's clock has milliseconds
        fourth = await connect(GET)
        assert await fourth.answer() == (200, "here")
        assert await third.everything() == b""
        for client in (first, second, fourth):
            client.send(GET)
            assert await client.answer() == (200, "here")


@on_uvloop
async def test_without_an_idle_one_new_connections_are_refused() -> None:
    async with connecting(max_connections=2) as connect:
        busy = [await connect("POST /v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n") for _ in range(2)]
        for client in busy:
            client.send("a")
            await client.writer.drain()
        # When the server refuses others, these have arrived.
        statuses = []
        while 503 not in statuses:
            status, body = await (await connect(GET)).answer()
            statuses.append(status)
        assert body["error"]["code"] == "too_many_connections"
        for client in busy:
            client.send("bc")
            assert await client.answer() == (200, 3)
        assert await (await connect(GET)).answer() == (200, "here")


@on_uvloop
async def test_connections_of_one_address() -> None:
    async with connecting(max_connections_per_address=2) as connect:
        first, second = await connect(GET), await connect(GET)
        assert [await client.answer() for client in (first, second)] == [(200, "here")] * 2
        assert (await (await connect()).answer())[0] == 503
        first.writer.close()
        await first.writer.wait_closed()
        while (await (await connect(GET)).answer())[0] != 200:
            pass


@on_uvloop
async def test_a_half_closed_connection_is_answered_where_that_is_cheap() -> None:
    async with connecting() as connect:
        client = await connect(GET)
        client.writer.write_eof()
        assert (await client.everything()).endswith(b'"here"')


@contextmanager
def limited_files(num_files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (num_files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_leaves_room_for_others() -> None:
    with limited_files(256):
        assert HTTPLimits(max_connections=4096).num_places == 256 - RESERVED_FILES
        assert HTTPLimits(max_connections=10).num_places == 10
    with limited_files(128):
        assert HTTPLimits(max_connections=4096).num_places == 64
