"""Tests that kill each process: the system recovers by itself, and streams survive the loss of a worker or scheduler.

All tests share one system. test_failover.py has two workers, and more streams and failures.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System, ready_system

MODEL = "smollm2:135m"
REQUEST = {
    "model": MODEL,
    "prompt": list(range(3000, 3040)),
    "temperature": 1.0,
    "seed": 7,
    "max_tokens": 96,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def own_system(home: Path) -> Iterator[System]:
    """Run a system that the tests may break."""
    with ready_system(home, "--kv-memory", "256MiB") as system:
        yield system


@pytest.fixture(scope="module")
def answer(own_system: System) -> str:
    """Return the answer of the undisturbed system."""
    return "".join(stream(own_system))


def stream(system: System) -> Iterator[str]:
    """Yield the pieces of text as they arrive."""
    request = {**REQUEST, "stream": True}
    with httpx.stream("POST", f"{system.url}/v1/completions", json=request, timeout=120, trust_env=False) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                assert "error" not in event, event
                yield event["choices"][0]["text"]


@pytest.mark.parametrize("tier", ["worker", "scheduler"])
def test_a_stream_goes_on_when_its_worker_or_scheduler_is_killed(own_system: System, answer: str, tier: str) -> None:
    num_moved = own_system.metric("pagoda_moved_samples_total")
    victim = own_system.tier(tier)
    assert victim is not None
    pieces: list[str] = []
    for piece in stream(own_system):
        pieces.append(piece)
        if len(pieces) == 8:
            victim.kill()
    assert "".join(pieces) == answer
    assert own_system.metric("pagoda_moved_samples_total") == num_moved + 1


def test_a_worker_keeps_its_cache_when_the_scheduler_is_killed(own_system: System) -> None:
    prompt = list(range(4000, 4040))  # a prompt that no other test has sent
    before = complete(own_system, prompt)
    own_system.kill_tier("scheduler")
    own_system.wait_until_ready()
    after = complete(own_system, prompt)
    assert before["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # Two full blocks of the prompt's forty tokens, whose keys and values were not computed again.
    assert after["usage"]["prompt_tokens_details"]["cached_tokens"] == 32
    assert after["choices"][0]["text"] == before["choices"][0]["text"]


def test_the_gateway_may_be_killed(own_system: System, answer: str) -> None:
    own_system.kill_tier("gateway")
    own_system.wait_until_ready()
    assert "".join(stream(own_system)) == answer


def complete(system: System, prompt: list[int]) -> Any:
    request = {**REQUEST, "prompt": prompt}
    response = httpx.post(f"{system.url}/v1/completions", json=request, timeout=120, trust_env=False)
    assert response.status_code == 200
    return response.json()
