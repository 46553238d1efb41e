"""Tests of comments in server-sent events: a waiting stream sends them now and then, and clients ignore them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import openai
import pytest

from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.scheduler import Answer

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
COMMENT = b": waiting\n\n"


@pytest.fixture(name="gateway")
async def commenting_gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path, comment_interval_s=0.02) as running:
        yield running


async def read_until(response: httpx.Response, chunks: AsyncIterator[bytes], wanted: bytes, count: int = 1) -> bytes:
    text = b""
    while text.count(wanted) < count:
        text += await anext(chunks)
    return text


@pytest.mark.parametrize("hold_before", [0, 2])
async def test_comments_while_a_request_is_held(gateway: RunningGateway, hold_before: int) -> None:
    """Comments are sent while a request waits, before its first token and between two tokens."""
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=hold_before)
    async with gateway.http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
        assert response.status_code == 200
        chunks = response.aiter_bytes()
        before = await read_until(response, chunks, COMMENT, 3)
        gateway.scheduler.release.set()
        rest = b"".join([chunk async for chunk in chunks])
    assert rest.endswith(b"data: [DONE]\n\n")
    lines = (before + rest).split(b"\n\n")
    assert {line.split(b" ")[0] for line in lines} == {b":", b"data:", b""}


async def test_the_official_client_does_not_see_them(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        await gateway.scheduler.held.get()
        asyncio.get_running_loop().call_later(0.1, gateway.scheduler.release.set)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "Hello"


async def test_an_error_that_comes_before_a_comment_has_its_status(short_path: Path) -> None:
    refusal = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", 1.0)
    async with running_gateway(short_path, comment_interval_s=60) as gateway:
        gateway.scheduler.answer = lambda *_: Answer(refusal=refusal)
        async with gateway.http.stream("POST", "/v1/completions", json={"prompt": "Hi", "stream": True}) as response:
            assert response.status_code == 429


async def test_an_error_behind_a_comment_is_an_event(gateway: RunningGateway) -> None:
    # The first bytes of a character are no text, so nothing was sent before the failure.
    gateway.scheduler.answer = lambda *_: Answer(token_ids=(0xE5, 0xA1, 0x94), hold_before=0, failure_after=1)
    async with gateway.http.stream("POST", "/v1/completions", json={"prompt": "Hi", "stream": True}) as response:
        chunks = response.aiter_bytes()
        await read_until(response, chunks, COMMENT)
        gateway.scheduler.release.set()
        rest = b"".join([chunk async for chunk in chunks])
    assert b'data: {"error":{' in rest


async def test_a_client_that_leaves_a_waiting_stream_cancels_it(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=0)
    async with gateway.http.stream("POST", "/v1/completions", json={"prompt": "Hi", "stream": True}) as response:
        await read_until(response, response.aiter_bytes(), COMMENT)
        request_id = await gateway.scheduler.opened.get()
    assert await gateway.scheduler.cancelled.get() == request_id


async def test_lines_of_ollama_have_no_comments(gateway: RunningGateway) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    body = {"model": "tiny", "prompt": "Hi"}
    async with gateway.http.stream("POST", "/api/generate", json=body) as response:
        await gateway.scheduler.held.get()
        asyncio.get_running_loop().call_later(0.1, gateway.scheduler.release.set)
        text = await response.aread()
    assert all(line.startswith(b"{") for line in text.splitlines())
