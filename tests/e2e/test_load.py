"""Tests with many clients at once: answers do not depend on the load, and the pages of clients that leave are freed."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, until

MODEL = "smollm2:135m"


@pytest.fixture
async def http(system: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=system.url, timeout=240, trust_env=False) as client:
        yield client


def body(number: int, **fields: Any) -> dict[str, Any]:
    prompt = [random.Random(number).randrange(1000, 30000) for _ in range(20 + number % 30)]
    return {"model": MODEL, "prompt": prompt, "seed": number, "ignore_eos": True, **fields}


async def complete(http: httpx.AsyncClient, request: dict[str, Any]) -> str:
    response = await http.post("/v1/completions", json=request)
    response.raise_for_status()
    text: str = response.json()["choices"][0]["text"]
    return text


async def test_the_same_question_has_the_same_answer_under_load(http: httpx.AsyncClient) -> None:
    asked = [body(1, temperature=0, max_tokens=24), body(2, temperature=1.2, max_tokens=24)]
    alone = [await complete(http, request) for request in asked]
    others = [body(100 + number, temperature=1, max_tokens=8 + number) for number in range(16)]
    together = await asyncio.gather(*(complete(http, request) for request in [*others[:8], *asked, *others[8:]]))
    assert together[8:10] == alone


async def test_clients_that_leave_free_their_pages(system: System, http: httpx.AsyncClient) -> None:
    async def stream(number: int, leave_after: int | None) -> int:
        """Return the number of chunks that were read."""
        chunks = 0
        request = body(number, temperature=0, max_tokens=32 if leave_after is None else 1000, stream=True)
        async with http.stream("POST", "/v1/completions", json=request) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                chunks += line.startswith("data: {")
                if chunks == leave_after:
                    break
        return chunks

    # Some leave before the first token, during the prefill; others after a few tokens.
    async def leave_at_once(number: int) -> None:
        task = asyncio.create_task(stream(number, None))
        await asyncio.sleep(0)
        await asyncio.wait([task], timeout=0.01 * (number % 8))
        task.cancel()
        await asyncio.wait([task])

    staying = [stream(1000 + number, None) for number in range(32)]
    leaving = [stream(2000 + number, 1 + number % 4) for number in range(24)]
    results = await asyncio.gather(*staying, *leaving, *(leave_at_once(3000 + number) for number in range(8)))
    assert all(chunks is not None and chunks > 1 for chunks in results[:32])
    await asyncio.to_thread(until, "all pages are free", lambda: system.metric("pagoda_pages", state="used") == 0)
    assert system.metric("vllm:num_requests_running") == system.metric("vllm:num_requests_waiting") == 0
