"""Tests of harmless fields that clients of other servers send: accepted with their meaning, or ignored and named in a header."""

import json
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import ollama
import openai
import orjson
import pytest
import pytest_asyncio

from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "Hi"}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BASES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    COMPLETIONS: {"prompt": "Hi"},
    "/api/chat": {"model": "tiny", "messages": [USER], "stream": False},
    "/api/generate": {"model": "tiny", "prompt": "Hi", "stream": False},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def shared_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory)) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="strict_gateway")
async def shared_strict_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory), strict_fields=True) as running:
            yield running


def _id(value: object) -> str:
    """Return a test id that is equal in all test processes: the text of a function contains its address."""
    return "check" if callable(value) else str(value)[:80]


Check = Callable[[inference_pb2.GenerateRequest], bool]
ASSISTANT = {"role": "assistant", "content": None}
ACCEPTED: list[tuple[str, dict[str, Any], Check]] = [
    *[
        (path, {"stop": [f"stop {number}" for number in range(number)]}, lambda request: True)
        for path in (CHAT, COMPLETIONS)
        for number in (0, 5, 64)
    ],
    ("/api/chat", {"options": {"stop": [f"stop {number}" for number in range(64)]}}, lambda request: True),
    (CHAT, {"top_p": 0, "temperature": 1.5}, lambda request: request.sampling.temperature == 0),
    (CHAT, {"top_p": 0.0}, lambda request: request.sampling.temperature == 0),
    ("/api/generate", {"options": {"top_p": 0}}, lambda request: request.sampling.temperature == 0),
    ("/api/chat", {"options": {"temperature": 2.5}}, lambda request: request.sampling.temperature == 2.5),
    (CHAT, {"max_tokens": 16.0}, lambda request: request.sampling.max_tokens == 16),
    (CHAT, {"max_completion_tokens": 16.0}, lambda request: request.sampling.max_tokens == 16),
    (CHAT, {"seed": 3.0}, lambda request: request.sampling.seed == 3),
    (CHAT, {"n": 1.0, "top_k": 5.0, "min_tokens": 0.0, "priority": 1.0}, lambda request: request.sampling.top_k == 5),
    (CHAT, {"stop_token_ids": [7.0, 8]}, lambda request: list(request.sampling.stop_token_ids) == [7, 8]),
    (CHAT, {"logprobs": True, "top_logprobs": 2.0}, lambda request: request.sampling.num_logprobs == 2),
    (COMPLETIONS, {"prompt": [72.0, 105]}, lambda request: list(request.prompt_token_ids) == [72, 105]),
    (COMPLETIONS, {"prompt": [[72.0, 105.0]]}, lambda request: list(request.prompt_token_ids) == [72, 105]),
    ("/api/chat", {"options": {"num_ctx": 64.0, "seed": 3.0}}, lambda request: request.sampling.seed == 3),
    ("/api/generate", {"options": {"num_predict": 3.0}}, lambda request: request.sampling.max_tokens == 3),
    (CHAT, {"n_predict": 7}, lambda request: request.sampling.max_tokens == 7),
    (COMPLETIONS, {"n_predict": 7, "max_tokens": 5}, lambda request: request.sampling.max_tokens == 5),
    (CHAT, {"max_tokens": -1}, lambda request: request.sampling.max_tokens > 400),
    (CHAT, {"max_completion_tokens": -1}, lambda request: request.sampling.max_tokens > 400),
    (COMPLETIONS, {"max_tokens": -1}, lambda request: request.sampling.max_tokens > 400),
    (CHAT, {"messages": [USER, ASSISTANT, USER]}, lambda request: True),
    (CHAT, {"messages": [USER, {**ASSISTANT, "tool_calls": []}, USER]}, lambda request: True),
    (CHAT, {"messages": [USER, {"role": "assistant"}, USER]}, lambda request: True),
    ("/api/chat", {"messages": [USER, ASSISTANT, USER]}, lambda request: True),
    (CHAT, {"messages": [{**USER, "name": None, "tool_calls": None, "refusal": None}]}, lambda request: True),
    (CHAT, {"keep_alive": "5m"}, lambda request: request.keep_alive_s == 300),
    (COMPLETIONS, {"keep_alive": 60.0}, lambda request: request.keep_alive_s == 60),
    (
        CHAT,
        {"repeat_penalty": 1.5, "repeat_last_n": 8.0},
        lambda request: (request.sampling.repetition_penalty, request.sampling.repetition_window) == (1.5, 8),
    ),
    (COMPLETIONS, {"repeat_penalty": 1.5}, lambda request: request.sampling.repetition_window == 64),
    (CHAT, {"repetition_penalty": 1.5}, lambda request: request.sampling.repetition_window == 0),
    (CHAT, {"cache_prompt": True, "typical_p": 1, "mirostat": 0, "xtc_probability": 0}, lambda request: True),
    (CHAT, {"service_tier": "flex", "store": True, "verbosity": "low", "metadata": {"a": "b"}}, lambda request: True),
    (CHAT, {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}}, lambda request: True),
    (CHAT, {"temperature": None, "stop": None, "stream": None, "guided_json": None}, lambda request: True),
    ("/api/chat", {"options": None, "keep_alive": None, "format": None, "tools": None}, lambda request: True),
]


@pytest.mark.parametrize(("path", "fields", "holds"), ACCEPTED, ids=_id)
async def test_accepted_with_its_meaning(
    gateway: RunningGateway, path: str, fields: dict[str, Any], holds: Check
) -> None:
    response = await gateway.http.post(path, json=BASES[path] | fields)
    assert response.status_code == 200, response.text
    assert "x-pagoda-ignored" not in response.headers
    assert holds(gateway.scheduler.requests[-1])


PART = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
IGNORED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"surprise": 1}, "surprise"),
    (CHAT, {"temprature": 0, "options": {}}, "temprature, options"),
    (CHAT, {"reasoning_effort": "low"}, "reasoning_effort"),
    (CHAT, {"messages": [{**USER, "timestamp": 1, "id": "x"}]}, "messages.0.timestamp, messages.0.id"),
    (CHAT, {"messages": [USER, {**USER, "seen": None}]}, "messages.1.seen"),
    (CHAT, {"messages": [{"role": "user", "content": [PART]}]}, "messages.0.content.0.cache_control"),
    (COMPLETIONS, {"provider": {"order": ["x"]}}, "provider"),
    ("/api/chat", {"temperature": 0.5, "max_output_tokens": 5}, "temperature, max_output_tokens"),
    ("/api/chat", {"messages": [{**USER, "timestamp": 1}]}, "messages.0.timestamp"),
    ("/api/chat", {"options": {"num_gqa": 8, "temp": 1, "": 1}}, 'options.num_gqa, options.temp, options.""'),
    ("/api/generate", {"options": {"num_gqa": 8}, "surprise": None}, "surprise, options.num_gqa"),
    # Field names that would break a header, or make it too long.
    (CHAT, {"a\r\nset-cookie: b=c": 1}, "a??set-cookie??b?c"),
    (CHAT, {"größe, ": 1}, "gr??e??"),
    (CHAT, {"x" * 1000: 1}, f"{'x' * 61}..."),
    (CHAT, {f"f{number}": 1 for number in range(1000)}, f"{', '.join(f'f{number}' for number in range(16))}, ..."),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "fields", "named"), IGNORED, ids=_id)
async def test_ignored_and_named(
    gateway: RunningGateway,
    caplog: pytest.LogCaptureFixture,
    path: str,
    fields: dict[str, Any],
    named: str,
    stream: bool,
) -> None:
    with caplog.at_level(logging.INFO, "gateway.http.http_context"):
        response = await gateway.http.post(path, json=BASES[path] | fields | {"stream": stream})
    assert response.status_code == 200, response.text
    assert response.headers["x-pagoda-ignored"] == named
    [record] = [record for record in caplog.records if record.getMessage() == "fields ignored"]
    assert record.__dict__["what"] == named
    assert record.__dict__["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(("path", "fields", "named"), IGNORED, ids=_id)
async def test_refused_by_a_strict_gateway(
    strict_gateway: RunningGateway, path: str, fields: dict[str, Any], named: str
) -> None:
    response = await strict_gateway.http.post(path, json=BASES[path] | fields)
    assert response.status_code == 400
    error = response.json()["error"]
    message = error if isinstance(error, str) else error["message"]
    assert message.startswith(f"{named.split(', ')[0]}: ")
    assert message.endswith(("unknown field", "not supported with this value; leave it out"))
    assert strict_gateway.scheduler.requests == []


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
async def test_a_refused_request_names_what_was_ignored_too(gateway: RunningGateway, path: str) -> None:
    response = await gateway.http.post(path, json=BASES[path] | {"tools": [{"type": "function"}], "surprise": 1})
    assert response.status_code == 400
    assert response.headers["x-pagoda-ignored"] == "surprise"


async def test_very_many_unknown_fields(gateway: RunningGateway) -> None:
    body = orjson.dumps(BASES[CHAT] | {str(number): 1 for number in range(80_000)})
    response = await gateway.http.post(CHAT, content=body)
    assert response.status_code == 200
    assert len(response.headers["x-pagoda-ignored"]) < 200


async def test_the_official_clients(gateway: RunningGateway) -> None:
    extras = {"temprature": 1, "keep_alive": "1m", "messages": [{**USER, "timestamp": 1}]}
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hi"}],
            stop=list("stuvwx"),
            top_p=0,
            max_tokens=-1,
            extra_body=extras,
        )
        assert raw.headers["x-pagoda-ignored"] == "temprature, messages.0.timestamp"
        assert raw.parse().choices[0].message.content == "Hello!"
    options = {"temperature": 2.5, "num_ctx": 64.0, "num_gqa": 8}
    async with ollama.AsyncClient(gateway.url) as ollama_client:
        messages = [USER, {"role": "assistant", "content": None}, USER]
        answer = await ollama_client.chat("tiny", messages, options=options)
        assert answer.message.content == "Hello!"


async def test_each_known_field_without_support_is_still_refused(strict_gateway: RunningGateway) -> None:
    refused = ["bad_words", "allowed_token_ids", "kv_transfer_params", "use_beam_search"]
    for name in refused:
        response = await strict_gateway.http.post(CHAT, content=json.dumps(BASES[CHAT] | {name: {"a": 1}}))
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
