"""Tests of a mixture of experts behind all tiers: its streams survive the kill of a worker with the same tokens."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import until
from tests.e2e.tiers import Tier, Tiers
from tests.fakes.tiny_model import write_tiny_gguf

WORKERS = ("first", "second")
NUM_STREAMS, NUM_TOKENS = 6, 600
SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_layers": 4, "num_experts": 8}


async def ask(client: httpx.AsyncClient, number: int, on_chunk: Callable[[], None]) -> list[int]:
    """Return the tokens of one stream. Streams differ in their prompts and seeds."""
    request = {
        "model": "experts",
        "prompt": f"{number} experts " * (number + 1),
        "max_tokens": NUM_TOKENS,
        "temperature": 1.0,
        "seed": number,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    token_ids: list[int] = []
    async with client.stream("POST", "/v1/completions", json=request) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                content = json.loads(line.removeprefix("data: "))
                assert "error" not in content, content
                token_ids += content["choices"][0].get("token_ids") or []
                on_chunk()
    return token_ids


async def ask_all(url: str, on_chunk: Callable[[], None]) -> list[list[int]]:
    async with httpx.AsyncClient(base_url=url, timeout=100, trust_env=False) as client:
        return await asyncio.gather(*(ask(client, number, on_chunk) for number in range(NUM_STREAMS)))


def has_both(url: str) -> bool:
    metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    return all(f'pagoda_worker_sequences{{worker="{name}"}}' in metrics for name in WORKERS)


@pytest.mark.asyncio
async def test_streams_of_a_mixture_survive_a_kill_with_the_same_tokens(tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "experts.gguf", seed=3, max_position=2048, **SIZES)
    with Tiers(tmp_path, tmp_path) as tiers:
        scheduler = tiers.scheduler()
        workers: list[Tier] = [
            tiers.worker([scheduler], "--model", str(model), "--worker-id", name) for name in WORKERS
        ]
        gateway = tiers.gateway([scheduler], "--model", str(model))
        await asyncio.to_thread(gateway.wait_until_ready)
        await asyncio.to_thread(until, "both workers attach", lambda: has_both(gateway.url))
        undisturbed = await ask_all(gateway.url, lambda: None)
        assert [len(tokens) for tokens in undisturbed] == [NUM_TOKENS] * NUM_STREAMS
        num_chunks = 0

        def kill_in_the_middle() -> None:
            nonlocal num_chunks
            num_chunks += 1
            if num_chunks == 3 * NUM_STREAMS:
                workers[0].kill()

        assert await ask_all(gateway.url, kill_in_the_middle) == undisturbed
        assert gateway.metric("pagoda_moved_samples_total") > 0
