"""kill -9 of each process: the system comes back by itself, and streams do not notice a lost worker or scheduler."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import StartSystem
from tests.e2e.system import System

MODEL = "smollm2:135m"
REQUEST = {
    "model": MODEL,
    "prompt": list(range(3000, 3040)),
    "temperature": 1.0,
    "seed": 7,
    "max_tokens": 96,
    "ignore_eos": True,
}


@pytest.fixture
def own_system(start_system: StartSystem) -> System:
    """One to break."""
    system = start_system("--kv-memory", "256MiB")
    system.wait_until_ready()
    return system


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


def test_each_process_may_be_killed(own_system: System) -> None:
    answer = "".join(stream(own_system))
    for tier in ("worker", "scheduler", "gateway"):
        own_system.kill_tier(tier)
        own_system.wait_until_ready()
        assert "".join(stream(own_system)) == answer, f"after the {tier} was killed"


@pytest.mark.parametrize("tier", ["worker", "scheduler"])
def test_a_stream_goes_on_when_its_worker_or_scheduler_is_killed(own_system: System, tier: str) -> None:
    answer = "".join(stream(own_system))
    pieces: list[str] = []
    killer: threading.Thread | None = None
    for piece in stream(own_system):
        pieces.append(piece)
        if len(pieces) == 8:
            killer = threading.Thread(target=own_system.kill_tier, args=(tier,))
            killer.start()
    assert killer is not None
    killer.join()
    assert "".join(pieces) == answer
    assert own_system.metric("pagoda_moved_samples_total") == 1


def test_streams_of_a_killed_worker_go_on_at_another(start_system: StartSystem) -> None:
    system = start_system("--workers", "2", "--kv-memory", "128MiB")
    assert system.read_banner().count("pages of 16 tokens") == 2
    answer = "".join(stream(system))
    victim = system.tier("worker")
    assert victim is not None
    with ThreadPoolExecutor(max_workers=4) as pool:
        streams = [stream(system) for _ in range(4)]
        heads = list(pool.map(next, streams))
        victim.kill()
        tails = list(pool.map("".join, streams))
    assert [head + tail for head, tail in zip(heads, tails, strict=True)] == [answer] * 4


def test_a_worker_keeps_its_cache_when_the_scheduler_is_killed(own_system: System) -> None:
    before = complete(own_system)
    own_system.kill_tier("scheduler")
    own_system.wait_until_ready()
    after = complete(own_system)
    assert before["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    # Two full blocks of the prompt's forty tokens, whose keys and values nobody had to compute again.
    assert after["usage"]["prompt_tokens_details"]["cached_tokens"] == 32
    assert after["choices"][0]["text"] == before["choices"][0]["text"]


def complete(system: System) -> Any:
    response = httpx.post(f"{system.url}/v1/completions", json=REQUEST, timeout=120, trust_env=False)
    assert response.status_code == 200
    return response.json()
