"""Tests of two models on one worker of the real system, through the official clients. The models are tiny, so they load fast."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import ollama
import openai
import pytest

from tests.e2e.system import System, ready_system, until
from tests.fakes.native_code import give_native_code
from tests.fakes.tiny_model import write_tiny_gguf

A, B = "tiny-a", "tiny-b"
PROMPT = "the quick brown fox"
NUM_TOKENS = 12


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with an empty store and the models' files."""
    own_home = give_native_code(tmp_path_factory.mktemp("h"))
    for seed, name in enumerate((A, B)):
        write_tiny_gguf(own_home / f"{name}.gguf", seed=seed)
    return own_home


def serving(home: Path, *names: str) -> AbstractContextManager[System]:
    named = [argument for name in names for argument in ("--model", str(home / f"{name}.gguf"))]
    return ready_system(home, *named, "--workers", "1", "--kv-memory", "8MiB", "--ollama-port", "0")


@pytest.fixture(scope="module")
def alone(own_home: Path) -> str:
    """Return the second model's answer from a system that has no other model."""
    with serving(own_home, B) as system:
        return complete(system, B)


@pytest.fixture(scope="module")
def system(own_home: Path) -> Iterator[System]:
    with serving(own_home, A, B) as system:
        yield system


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[ollama.Client]:
    with ollama.Client(host=system.url) as client:
        yield client


def complete(system: System, model: str) -> str:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=NUM_TOKENS, temperature=0)
        return answer.choices[0].text


def generate(client: ollama.Client, model: str, keep_alive: float | str | None = None) -> str:
    options = {"temperature": 0, "num_predict": NUM_TOKENS}
    return client.generate(model, PROMPT, raw=True, options=options, keep_alive=keep_alive).response or ""


def in_memory(client: ollama.Client) -> list[str]:
    return [(model.model or "").removesuffix(":latest") for model in client.ps().models]


def test_one_worker_serves_whichever_is_asked_for(system: System, client: ollama.Client, alone: str) -> None:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none") as openai_client:
        assert [model.id for model in openai_client.models.list()] == [A, B]
    assert in_memory(client) == [A]
    first = generate(client, A)
    assert generate(client, B) == complete(system, B) == alone != first
    assert in_memory(client) == [B]
    assert complete(system, A) == first
    assert in_memory(client) == [A]
    assert system.metric("pagoda_model_loads_total") == 2


def test_requests_for_both_at_once_are_all_answered(system: System, client: ollama.Client, alone: str) -> None:
    first = generate(client, A)
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda number: complete(system, (A, B)[number % 2]), range(16)))
    assert answers == [first, alone] * 8


def test_a_model_leaves_and_the_other_is_not_touched(client: ollama.Client) -> None:
    generate(client, B, keep_alive="0.2s")
    until("its keep-alive has ended", lambda: not in_memory(client))
    assert client.generate(A, "").done_reason == "load"
    assert in_memory(client) == [A]


def test_a_new_model_is_served_without_a_restart_and_goes_when_it_is_deleted(client: ollama.Client) -> None:
    first = generate(client, A, keep_alive=0)
    until("the model is unloaded; otherwise both names would mean the loaded one", lambda: not in_memory(client))
    client.create(model="mine", from_=A, parameters={"num_predict": 3})
    assert {model.model for model in client.list().models} == {"mine:latest", f"{A}:latest", f"{B}:latest"}
    assert generate(client, "mine") == first
    assert in_memory(client) == ["mine"]
    client.delete("mine")
    until("the model is unloaded", lambda: not in_memory(client))
    with pytest.raises(ollama.ResponseError) as caught:
        generate(client, "mine")
    assert caught.value.status_code == 404
    assert generate(client, A) == first
