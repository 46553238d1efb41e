"""A gateway process under attack: one stream runs in it while a test sends what must not delay it.

To add an input: append an `Attack` to a list that test_hostile_requests.py sends, or write a test that awaits
`HostileGateway.withstands(attack)` yourself. The scheduler answers immediately, so only the gateway's own work counts. The gateway
has the tiny model (a token is a byte) with a window of WINDOW tokens, under the name MODEL.
"""

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil

from protos.v1 import inference_pb2
from tests.e2e.system import free_port
from tests.fakes.scheduler import Answer, FakeScheduler
from tests.fakes.tiny_model import write_tiny_gguf

MODEL = "tiny"
WINDOW = 131_072
MAX_HELD_S = 0.25
"""Processor time that may pass between two turns of the gateway's event loop."""
MAX_GROWTH_BYTES = 256 * 1024 * 1024
_STREAMING = "the stream that must go on"


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One request. `statuses` are the expected answers; the default is any below 500."""

    path: str
    body: Any = None
    """Body of the request: bytes are sent unchanged, anything else as JSON."""
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: frozenset[int] = frozenset(range(200, 500))

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else b"" if self.body is None else orjson.dumps(self.body)


@dataclass(frozen=True, slots=True)
class Held:
    """Longest processor time between two turns of the loop, in seconds."""

    loop_s: float
    process_s: float


class HostileGateway:
    def __init__(self, url: str, http: httpx.AsyncClient, process: psutil.Process, probe: Path) -> None:
        self.url = url
        self.http = http
        self._process = process
        self._probe = probe
        self._stream_grew = asyncio.Event()
        self._stream_problem: str | None = None
        self._resident_before = process.memory_info().rss

    async def withstands(self, attack: Attack) -> httpx.Response:
        """Send the attack and check that the stream continued, the loop was not blocked and memory did not grow; return the answer.

        A thread that keeps the interpreter's lock does so each time. A busy machine looks like that now and then, so there are
        three tries.
        """
        content = attack.content
        for tries_left in (2, 1, 0):
            await self.held()
            self._forget_peak()
            response = await self.http.request(
                attack.method,
                self.url + attack.path,
                content=content,
                headers={"content-type": "application/json"} | dict(attack.headers),
            )
            held = await self.held()
            assert held.loop_s <= MAX_HELD_S, f"the loop was blocked for {held.loop_s:.2f} s"
            if held.process_s <= MAX_HELD_S or not tries_left:
                break
        assert held.process_s <= MAX_HELD_S, f"threads kept the lock for up to {held.process_s:.2f} s"
        assert response.status_code in attack.statuses, response.text[:300]
        grown = self._peak_bytes() - self._resident_before
        assert grown <= MAX_GROWTH_BYTES, f"memory grew by {grown >> 20} MiB"
        await self.stream_goes_on()
        return response

    async def withstands_bytes(self, content: bytes) -> None:
        """Do the same as `withstands` for bytes that need not be one request; the answer is read only after all are sent."""
        await self.held()
        self._forget_peak()
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(content)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
                await reader.read()
        finally:
            writer.close()
        held = await self.held()
        assert held.loop_s <= MAX_HELD_S, f"the loop was blocked for {held.loop_s:.2f} s"
        grown = self._peak_bytes() - self._resident_before
        assert grown <= MAX_GROWTH_BYTES, f"memory grew by {grown >> 20} MiB"
        await self.stream_goes_on()

    async def stream_goes_on(self) -> None:
        """Wait for another token. The test's time limit is the deadline."""
        self._stream_grew.clear()
        await self._stream_grew.wait()
        assert self._stream_problem is None, self._stream_problem

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        stream = asyncio.create_task(self._run_stream())
        try:
            yield
        finally:
            stream.cancel()
            await asyncio.gather(stream, return_exceptions=True)

    async def held(self) -> Held:
        """Return the longest times for which the gateway's event loop was blocked since the last call."""
        reader, writer = await asyncio.open_unix_connection(self._probe)
        try:
            return Held(**json.loads(await reader.readline()))
        finally:
            writer.close()

    async def _run_stream(self) -> None:
        body = {"messages": [{"role": "user", "content": _STREAMING}], "stream": True}
        try:
            async with self.http.stream("POST", "/v1/chat/completions", json=body) as response:
                async for _ in response.aiter_bytes():
                    self._stream_grew.set()
            self._stream_problem = "the stream ended"
        except httpx.HTTPError as error:
            self._stream_problem = f"the stream broke: {error!r}"
        self._stream_grew.set()

    def _forget_peak(self) -> None:
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def _peak_bytes(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


@asynccontextmanager
async def hostile_gateway(home: Path, *arguments: str) -> AsyncIterator[HostileGateway]:
    """Run the gateway while the block runs. `home` must be short enough for unix sockets; `arguments` are the gateway's."""
    model = write_tiny_gguf(home / f"{MODEL}.gguf", max_position=WINDOW)
    port, probe = free_port(), home / "probe.sock"
    async with FakeScheduler(f"unix:{home / 's.sock'}", MODEL, WINDOW) as scheduler:
        scheduler.answer = _answer
        command = (sys.executable, "-m", "tests.fakes.probed_gateway", "--home", str(home), "--model", str(model))
        options = ("--scheduler", scheduler.address, "--port", str(port), "--ollama-port", "0", *arguments)
        environment = {**os.environ, "PAGODA_TEST_PROBE": str(probe)}
        with (home / "gateway.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *command, *options, stdout=DEVNULL, stderr=log, env=environment
            )
        ended = asyncio.create_task(process.wait())
        try:
            await _or_ended(scheduler.session_opened.wait(), ended, home)
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, timeout=200) as http:
                await _until_ready(http)
                gateway = HostileGateway(url, http, psutil.Process(process.pid), probe)
                async with gateway.streaming():
                    await _or_ended(gateway.stream_goes_on(), ended, home)
                    yield gateway
        finally:
            if process.returncode is None:
                process.kill()
            await ended


async def _or_ended(awaited: Coroutine[Any, Any, Any], ended: asyncio.Task[int], home: Path) -> None:
    waiting = asyncio.create_task(awaited)
    await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert not ended.done(), (home / "gateway.log").read_text()[-4000:]


async def _until_ready(http: httpx.AsyncClient) -> None:
    while True:
        try:
            if (await http.get("/ready")).status_code == 200:
                return
        except httpx.ConnectError:
            pass
        await asyncio.sleep(0.02)


def _answer(request: inference_pb2.GenerateRequest, _: int) -> Answer:
    """Return an answer longer than any test for the stream, and a short one for every other request."""
    is_stream = _STREAMING.encode() in bytes(id for id in request.prompt_token_ids[:200] if id < 256)
    return Answer(text="word " * 20_000, pace_s=0.02) if is_stream else Answer()
