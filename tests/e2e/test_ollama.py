"""Tests of the official `ollama` client against the real system and the real model."""

import json
from typing import Annotated, Literal

import httpx
from ollama import Client, Message
from pydantic import BaseModel, Field

from pagoda.distribution import VERSION
from tests.e2e.system import System

MODEL = "smollm2:135m"
QUESTION = [Message(role="user", content="What is the capital of Japan?")]
GREEDY = {"temperature": 0, "num_predict": 32}


def test_what_is_here(ollama_client: Client, system: System) -> None:
    assert MODEL in [model.model for model in ollama_client.list().models]
    assert MODEL in [model.model for model in ollama_client.ps().models]
    assert httpx.get(system.url, timeout=200, trust_env=False).text == "Ollama is running"
    version = httpx.get(f"{system.url}/api/version", timeout=200, trust_env=False).json()["version"]
    assert version == VERSION


def test_show(ollama_client: Client) -> None:
    shown = ollama_client.show(MODEL)
    assert shown.details is not None
    assert (shown.details.family, shown.details.quantization_level) == ("llama", "Q4_1")
    assert shown.capabilities is not None and "completion" in shown.capabilities
    assert shown.modelinfo is not None and shown.modelinfo["general.architecture"] == "llama"


def test_a_chat_answers(ollama_client: Client) -> None:
    answer = ollama_client.chat(MODEL, QUESTION, options=GREEDY)
    assert "Tokyo" in (answer.message.content or "")
    assert answer.done and answer.done_reason == "stop"
    assert answer.prompt_eval_count and answer.eval_count
    # In nanoseconds: a total below 0.1 ms or above an hour would mean another unit.
    assert answer.total_duration is not None and 10**5 < answer.total_duration < 3600 * 10**9


def test_a_stream_says_the_same(ollama_client: Client) -> None:
    whole = ollama_client.chat(MODEL, QUESTION, options=GREEDY)
    parts = list(ollama_client.chat(MODEL, QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]


def test_both_dialects_give_the_same_answer(ollama_client: Client, system: System) -> None:
    body = {"model": MODEL, "messages": [QUESTION[0].model_dump(exclude_none=True)], "temperature": 0, "max_tokens": 32}
    answer = httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=200, trust_env=False).json()
    assert (
        answer["choices"][0]["message"]["content"]
        == ollama_client.chat(MODEL, QUESTION, options=GREEDY).message.content
    )


def test_generate_raw_and_templated(ollama_client: Client) -> None:
    raw = ollama_client.generate(
        MODEL, "one, two, three, four,", raw=True, options={"temperature": 0, "num_predict": 6}
    )
    assert "five" in (raw.response or "")
    assert raw.done_reason == "length" and raw.eval_count == 6
    templated = ollama_client.generate(MODEL, "What is the capital of Japan?", options=GREEDY)
    assert "Tokyo" in (templated.response or "")


def test_an_empty_prompt_loads(ollama_client: Client) -> None:
    loaded = ollama_client.generate(MODEL, "")
    assert (loaded.response, loaded.done, loaded.done_reason) == ("", True, "load")


def test_ndjson_on_the_wire(system: System) -> None:
    body = {"model": MODEL, "prompt": "Hi", "options": {"num_predict": 3, "temperature": 0}}
    with httpx.stream("POST", f"{system.url}/api/generate", json=body, timeout=200, trust_env=False) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line) for line in response.iter_lines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert {line["model"] for line in lines} == {MODEL}


class City(BaseModel):
    name: Literal["Lima", "Tokyo", "Paris"]
    population: Annotated[int, Field(ge=0, le=99_999_999)]
    districts: Annotated[list[Annotated[str, Field(max_length=20)]], Field(min_length=1, max_length=3)]


def test_a_form_is_always_kept(ollama_client: Client) -> None:
    for seed in range(8):
        options = {"seed": seed, "temperature": 1.2, "num_predict": 400}
        answer = ollama_client.chat(MODEL, QUESTION, format=City.model_json_schema(), options=options)
        assert answer.done_reason == "stop"
        City.model_validate_json(answer.message.content or "")
    generated = ollama_client.generate(MODEL, "Describe a city as JSON.", format="json", options=GREEDY)
    whole = generated.done_reason == "stop"
    assert (generated.response or "").startswith("{") and (not whole or json.loads(generated.response or ""))


def test_a_form_is_kept_in_a_stream_and_in_raw_mode(ollama_client: Client) -> None:
    form, options = City.model_json_schema(), {"temperature": 0, "num_predict": 400}
    whole = ollama_client.generate(MODEL, "Tokyo:", raw=True, format=form, options=options).response
    parts = ollama_client.generate(MODEL, "Tokyo:", raw=True, format=form, options=options, stream=True)
    assert "".join(part.response or "" for part in parts) == whole
    City.model_validate_json(whole or "")
