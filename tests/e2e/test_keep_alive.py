"""Tests of unloading and reloading a model on the real system, through the official `ollama` client."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from ollama import Client, Message

from tests.e2e.system import System, until

MODEL = "smollm2:135m"
QUESTION = [Message(role="user", content="What is the capital of Japan?")]
GREEDY = {"temperature": 0, "num_predict": 16}
# Less than this model's weights take in memory.
LEAST_FREED_BYTES = 100 * 2**20


@pytest.fixture(autouse=True)
def kept_for_ever_again(ollama_client: Client) -> Iterator[None]:
    yield
    ollama_client.generate(MODEL, keep_alive=-1)


def ask(ollama_client: Client, keep_alive: float | str | None = None) -> str:
    answer = ollama_client.chat(MODEL, QUESTION, options=GREEDY, keep_alive=keep_alive)
    assert "Tokyo" in (answer.message.content or "")
    return answer.message.content or ""


def in_memory(ollama_client: Client) -> list[str | None]:
    return [model.model for model in ollama_client.ps().models]


def worker_bytes(system: System) -> int:
    worker = system.tier("worker")
    assert worker is not None
    return int(worker.memory_info().rss)


def test_unloading_gives_the_memory_back_and_the_next_request_loads(ollama_client: Client, system: System) -> None:
    answer = ask(ollama_client)
    process = system.tier("worker")
    with_model = worker_bytes(system)
    assert ollama_client.generate(MODEL, keep_alive=0).done_reason == "unload"
    until("the model is gone", lambda: not in_memory(ollama_client))
    until("its memory is free", lambda: with_model - worker_bytes(system) > LEAST_FREED_BYTES)
    assert ask(ollama_client, keep_alive=-1) == answer
    assert in_memory(ollama_client) == [MODEL]
    assert system.tier("worker") == process


def test_it_stays_for_as_long_as_a_request_says(ollama_client: Client) -> None:
    ask(ollama_client, keep_alive="0.2s")
    until("its keep-alive has ended", lambda: not in_memory(ollama_client))
    assert ollama_client.generate(MODEL, keep_alive="10m").done_reason == "load"
    (running,) = ollama_client.ps().models
    assert running.expires_at is not None
    assert 0 < (running.expires_at - datetime.now(UTC)).total_seconds() <= 600


def test_many_requests_at_once_wait_for_one_load(ollama_client: Client) -> None:
    ollama_client.generate(MODEL, keep_alive=0)
    until("the model is gone", lambda: not in_memory(ollama_client))
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda _: ask(ollama_client, keep_alive=-1), range(8)))
    assert len(set(answers)) == 1
