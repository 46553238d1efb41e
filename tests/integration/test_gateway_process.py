"""Tests of `python -m gateway` as a process: it serves, and on SIGTERM it lets streams finish and exits with 0."""

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.system import free_port
from tests.fakes.scheduler import Answer, FakeScheduler
from tests.fakes.tiny_model import write_tiny_gguf

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
async def scheduler(short_path: Path) -> AsyncIterator[FakeScheduler]:
    async with FakeScheduler(f"unix:{short_path / 's.sock'}", "tiny") as running:
        yield running


async def start_gateway(home: Path, port: int, *arguments: str) -> asyncio.subprocess.Process:
    model = write_tiny_gguf(home / "tiny.gguf")
    command = (sys.executable, "-m", "gateway", "--home", str(home), "--model", str(model))
    options = ("--scheduler", f"unix:{home / 's.sock'}", "--port", str(port), "--ollama-port", "0", *arguments)
    return await asyncio.create_subprocess_exec(*command, *options, stdout=PIPE, stderr=PIPE)


async def test_sigterm_lets_streams_finish(short_path: Path, scheduler: FakeScheduler) -> None:
    scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    port = free_port()
    process = await start_gateway(short_path, port)
    assert process.stderr is not None
    try:
        await scheduler.session_opened.wait()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as http:
            await until_listening(http)
            async with http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
                process.send_signal(signal.SIGTERM)
                while b"gateway draining" not in await process.stderr.readline():
                    pass
                async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as other:
                    assert (await other.get("/ready")).status_code == 503
                    assert (await other.post("/v1/chat/completions", json=CHAT)).status_code == 503
                scheduler.release.set()
                text = (await response.aread()).decode()
        assert text.endswith("data: [DONE]\n\n")
        assert await process.wait() == 0
    finally:
        await end(process)


async def test_a_stream_goes_on_when_the_gateway_has_stood_still(short_path: Path, scheduler: FakeScheduler) -> None:
    """A stream loses nothing that the scheduler sent while the gateway's process was stopped."""
    scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    port = free_port()
    process = await start_gateway(short_path, port)
    try:
        await scheduler.session_opened.wait()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as http:
            await until_listening(http)
            async with http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
                await scheduler.held.get()
                process.send_signal(signal.SIGSTOP)
                scheduler.release.set()
                with pytest.raises(httpx.ReadTimeout):
                    await http.get("/health", timeout=0.5)
                process.send_signal(signal.SIGCONT)
                text = (await response.aread()).decode()
        pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in pieces) == "Hello"
        assert text.endswith("data: [DONE]\n\n")
    finally:
        await end(process)


async def test_sigterm_while_it_starts_is_an_orderly_end_too(short_path: Path) -> None:
    process = await start_gateway(short_path, free_port())
    assert process.stderr is not None
    try:
        while b"gateway starting" not in await process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        await end(process)


async def test_it_is_unready_before_it_refuses(short_path: Path, scheduler: FakeScheduler) -> None:
    port = free_port()
    process = await start_gateway(short_path, port, "--drain-delay-s", "3600")
    assert process.stderr is not None
    try:
        await scheduler.session_opened.wait()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as http:
            await until_listening(http)
            process.send_signal(signal.SIGTERM)
            while b"gateway not ready" not in await process.stderr.readline():
                pass
            answers = [await http.get(path) for path in ("/ready", "/health")]
            answers.append(await http.post("/v1/chat/completions", json=CHAT))
        assert [answer.status_code for answer in answers] == [503, 200, 200]
        assert {answer.headers["connection"] for answer in answers} == {"close"}
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 128 + signal.SIGTERM
    finally:
        await end(process)


async def test_streams_that_outlast_the_grace_are_cut_and_the_end_is_still_clean(
    short_path: Path, scheduler: FakeScheduler
) -> None:
    scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    port = free_port()
    process = await start_gateway(short_path, port, "--drain-grace-s", "0")
    try:
        await scheduler.session_opened.wait()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as http:
            await until_listening(http)
            async with http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
                process.send_signal(signal.SIGTERM)
                with pytest.raises(httpx.RemoteProtocolError):
                    await response.aread()
        assert await process.wait() == 0
    finally:
        await end(process)


async def test_listens_where_ollamas_clients_look_too(short_path: Path, scheduler: FakeScheduler) -> None:
    port, ollama_port = free_port(), free_port()
    process = await start_gateway(short_path, port, "--ollama-port", str(ollama_port))
    try:
        for each in (port, ollama_port):
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{each}", timeout=200) as http:
                await until_listening(http)
                assert (await http.get("/")).text == "Ollama is running"
    finally:
        await end(process)


async def test_does_without_ollamas_port_when_it_is_taken(short_path: Path, scheduler: FakeScheduler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = free_port()
        process = await start_gateway(short_path, port, "--ollama-port", str(taken.getsockname()[1]))
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as http:
                await until_listening(http)
        finally:
            await end(process)


async def test_a_port_that_is_taken_is_one_sentence(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await start_gateway(short_path, taken.getsockname()[1])
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"Choose another with --port" in stderr and b"Traceback" not in stderr


async def test_an_unknown_model_is_one_sentence(short_path: Path) -> None:
    process = await start_gateway(short_path, free_port(), "--model", str(short_path / "none.gguf"))
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"none.gguf" in stderr and b"Traceback" not in stderr


async def until_listening(http: httpx.AsyncClient) -> None:
    """Wait until the gateway accepts connections; the deadline is the test's time limit."""
    while True:
        try:
            await http.get("/health")
            return
        except httpx.ConnectError:
            await asyncio.sleep(0.02)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()
