"""Tests of the load client with a stub of an OpenAI server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx

from bench.client import LoadShape, OpenAIClient, run_load
from bench.workloads import PlannedRequest, RandomWorkload, Vocabulary

REQUEST = PlannedRequest(prompt=[5, 6, 7], max_tokens=3)
USAGE = {"prompt_tokens": 3, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}


class StubServer(httpx.AsyncBaseTransport):
    """A server that answers with the given events and counts how many requests are open at once."""

    def __init__(self, *events: Any, status: int = 200) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.max_open = 0
        self._events = events
        self._status = status
        self._open = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json={"data": [{"id": "stub:1b"}]})
        self.bodies.append(json.loads(await request.aread()))
        return httpx.Response(self._status, stream=_Stream(self._answer()))

    async def _answer(self) -> AsyncIterator[bytes]:
        self._open += 1
        self.max_open = max(self.max_open, self._open)
        for event in self._events:
            await asyncio.sleep(0)
            yield f"data: {json.dumps(event)}\n\n".encode()
        yield b"data: [DONE]\n\n"
        self._open -= 1


class _Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


def text(piece: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": piece}]}


async def test_counts_come_from_usage_and_times_from_chunks() -> None:
    server = StubServer(text("a"), text("b c"), {"choices": [], "usage": USAGE})
    async with OpenAIClient("http://stub/v1/", transport=server) as client:
        outcome = await client.complete(REQUEST)
    assert outcome.error is None
    assert len(outcome.chunk_times_s) == 2
    assert (outcome.num_prompt_tokens, outcome.num_cached_tokens, outcome.num_output_tokens) == (3, 2, 3)
    (body,) = server.bodies
    assert (body["model"], body["prompt"], body["max_tokens"]) == ("stub:1b", [5, 6, 7], 3)
    assert body["ignore_eos"] is True and body["stream_options"] == {"include_usage": True}


async def test_a_status_an_error_event_and_a_missing_end_are_errors() -> None:
    for server, words in (
        (StubServer(status=429), "429"),
        (StubServer(text("a"), {"error": {"message": "worker lost"}}), "worker lost"),
        (StubServer(text("a")), "without usage"),
    ):
        async with OpenAIClient("http://stub/v1", model="m", transport=server) as client:
            outcome = await client.complete(REQUEST)
        assert outcome.error is not None and words in outcome.error


async def test_no_more_than_the_concurrency_at_once() -> None:
    server = StubServer(text("a"), text("b"), {"choices": [], "usage": USAGE})
    requests = RandomWorkload(num_requests=12, input_len=4, output_len=2).requests(Vocabulary())
    async with OpenAIClient("http://stub/v1", transport=server) as client:
        outcomes = await run_load(client, requests, LoadShape(concurrency=3))
    assert [outcome.error for outcome in outcomes] == [None] * 12
    assert server.max_open == 3
    assert {tuple(body["prompt"]) for body in server.bodies} == {tuple(request.prompt) for request in requests}
