"""kill -9 of each process: the system comes back by itself, and streams do not notice a lost worker or scheduler.

All tests share one system. With two workers, and more of everything: test_failover.py.
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
    """One to break."""
    with ready_system(home, "--kv-memory", "256MiB") as system:
        yield system


@pytest.fixture(scope="module")
def answer(own_system: System) -> str:
    """Before anything is killed."""
    return "".join(stream(own_system))


def stream(system: System) -> Iterator[str]:
    """The pieces of text, as they come."""
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
    prompt = list(range(4000, 4040))  # nobody's so far
    before = complete(own_system, prompt)
    own_system.kill_tier("scheduler")
    own_system.wait_until_ready()
    after = complete(own_system, prompt)
    assert before["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # Two full blocks of the prompt's forty tokens, whose keys and values nobody had to compute again.
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
