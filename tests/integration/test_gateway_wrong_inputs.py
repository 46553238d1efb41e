"""Tests of wrong requests: each gets a 4xx in its dialect's form that names the field, never a 422, a 500 or no answer."""

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.gateway import RunningGateway, running_gateway

# The gateway forwards none of these requests, so that all tests can share it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
OPENAI_PATHS = (CHAT, COMPLETIONS)
OLLAMA_PATHS = ("/api/chat", "/api/generate", "/api/show")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def shared_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory)) as running:
            yield running


def message_of(response: httpx.Response) -> str:
    """Return the error's text. Checks that the body has exactly the dialect's form, and that the response has an id."""
    body = response.json()
    assert response.headers["x-request-id"]
    if response.url.path.startswith("/api"):
        assert list(body) == ["error"] and isinstance(body["error"], str)
        return str(body["error"])
    assert list(body) == ["error"] and set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


@pytest.mark.parametrize("path", [*OPENAI_PATHS, *OLLAMA_PATHS])
@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"{",
        b'{"model": }',
        b"[]",
        b"null",
        b'"text"',
        b"7",
        b'{"model": "\xff\xfe"}',
        b'{"model": "\\ud800"}',
        b'{"temperature": NaN}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda raw: raw[:20].decode("latin-1"),
)
async def test_bodies_that_are_no_object(gateway: RunningGateway, path: str, raw: bytes) -> None:
    response = await gateway.http.post(path, content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert message_of(response)


@pytest.mark.parametrize("path", [*OPENAI_PATHS, *OLLAMA_PATHS])
async def test_a_body_of_10_megabytes(gateway: RunningGateway, path: str) -> None:
    body = json.dumps({"model": "x" * 10_000_000}).encode()
    response = await gateway.http.post(path, content=body)
    assert response.status_code == 413
    assert "8388608" in message_of(response)

    async def without_content_length() -> Any:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    assert (await gateway.http.post(path, content=without_content_length())).status_code == 413


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": "Hi"}, "messages"),
        (CHAT, {"messages": [1]}, "messages.0"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages.0.content"),
        (CHAT, {"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        (
            CHAT,
            {"messages": [USER, {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.1.content.0.type",
        ),
        (CHAT, {"messages": [{**USER, "tool_calls": [{}]}]}, "messages.0.tool_calls.0.function"),
        (CHAT, {"messages": [{**USER, "tool_calls": [{"function": {"name": "f"}}]}]}, "messages.0.tool_calls"),
        (CHAT, {"messages": [{**USER, "tool_call_id": "c"}]}, "messages.0.tool_call_id"),
        (CHAT, {"messages": [{"role": "function", "content": "1"}]}, "messages.0.name"),
        (CHAT, {"temperature": "hot"}, "temperature"),
        (CHAT, {"temperature": True}, "temperature"),
        (CHAT, {"temperature": 2.1}, "temperature"),
        (CHAT, {"temperature": -0.1}, "temperature"),
        (CHAT, {"top_p": -0.1}, "top_p"),
        (CHAT, {"top_p": 1.5}, "top_p"),
        (CHAT, {"top_k": -2}, "top_k"),
        (CHAT, {"top_k": 1.5}, "top_k"),
        (CHAT, {"min_p": 2}, "min_p"),
        (CHAT, {"presence_penalty": 3}, "presence_penalty"),
        (CHAT, {"frequency_penalty": -3}, "frequency_penalty"),
        (CHAT, {"repetition_penalty": 0}, "repetition_penalty"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": "5"}, "max_tokens"),
        (CHAT, {"max_tokens": 16.5}, "max_tokens"),
        (CHAT, {"max_tokens": True}, "max_tokens"),
        (CHAT, {"max_tokens": -2}, "max_tokens"),
        (CHAT, {"max_tokens": 10**30}, "max_tokens"),
        (CHAT, {"max_completion_tokens": 0}, "max_completion_tokens"),
        (CHAT, {"min_tokens": 5, "max_tokens": 2}, "min_tokens"),
        (CHAT, {"n": 0}, "n"),
        (CHAT, {"n": 10_000}, "n"),
        (CHAT, {"seed": 1.5}, "seed"),
        (CHAT, {"seed": 2**70}, "seed"),
        (CHAT, {"stop": ""}, "stop"),
        (CHAT, {"stop": ["a", ""]}, "stop"),
        (CHAT, {"stop": [str(number) for number in range(65)]}, "stop"),
        (CHAT, {"stop": 5}, "stop"),
        (CHAT, {"logit_bias": {"x": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"5": 101}}, "logit_bias"),
        (CHAT, {"logit_bias": {"100000": 1}}, "logit_bias"),
        (CHAT, {"logit_bias": {"٣": 1}}, "logit_bias"),
        (CHAT, {"stop_token_ids": [100_000]}, "stop_token_ids"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logprobs": 1}, "logprobs"),
        (CHAT, {"stream": "yes"}, "stream"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        (CHAT, {"model": 5}, "model"),
        (CHAT, {"tools": [{"type": "function"}]}, "tools.0.function"),
        (CHAT, {"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        (CHAT, {"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"tools": [TOOL], "functions": [{"name": "g"}]}, "functions"),
        (CHAT, {"functions": [{"name": "g"}], "tool_choice": "auto"}, "tool_choice"),
        (CHAT, {"functions": [{"name": "g"}], "function_call": {"name": "h"}}, "function_call"),
        (CHAT, {"function_call": {"name": "h"}}, "function_call"),
        (CHAT, {"documents": [{"text": "a"}]}, "documents"),
        (CHAT, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        (CHAT, {"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        (CHAT, {"chat_template_kwargs": {"bos_token": "x" * 70000}}, "chat_template_kwargs"),
        (CHAT, {"chat_template_kwargs": {f"a{i}": 1 for i in range(65)}}, "chat_template_kwargs"),
        (CHAT, {"tool_choice": "required"}, "tool_choice"),
        (CHAT, {"response_format": {"type": "xml"}}, "response_format.type"),
        (CHAT, {"prompt_logprobs": -1}, "prompt_logprobs"),
        (CHAT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        (CHAT, {"reasoning_effort": "some"}, "reasoning_effort"),
        (CHAT, {"n_predict": 0}, "n_predict"),
        (CHAT, {"use_beam_search": True}, "use_beam_search"),
        (CHAT, {"guided_json": 5}, "guided_json"),
        (CHAT, {"typical_p": 0.5}, "typical_p"),
        (CHAT, {"repeat_penalty": 1.1, "repetition_penalty": 1.1}, "repeat_penalty"),
        (CHAT, {"grammar": "root ::= x"}, "grammar"),
        (CHAT, {"keep_alive": "soon"}, "keep_alive"),
        (CHAT, {"keep_alive": "24"}, "keep_alive"),
        (COMPLETIONS, {"prompt": None}, "prompt"),
        (COMPLETIONS, {"prompt": ""}, "prompt"),
        (COMPLETIONS, {"prompt": []}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a", 5]}, "prompt"),
        (COMPLETIONS, {"prompt": [True]}, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt"),
        (COMPLETIONS, {"prompt": [100_000]}, "prompt"),
        (COMPLETIONS, {"prompt": [[1], [100_000]]}, "prompt"),
        (COMPLETIONS, {"prompt": ["a"] * 20, "n": 100}, "prompt"),
        (COMPLETIONS, {"prompt": "x" * 600}, "prompt"),
        (COMPLETIONS, {"logprobs": 21}, "logprobs"),
        (COMPLETIONS, {"logprobs": True}, "logprobs"),
        (CHAT, {"echo": True}, "echo"),
        (COMPLETIONS, {"max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"echo": 1}, "echo"),
        (CHAT, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        (CHAT, {"truncate_prompt_tokens": -1, "truncation_side": "right"}, "truncation_side"),
        (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        (CHAT, {"request_id": "a b"}, "request_id"),
        (CHAT, {"priority": 2**31}, "priority"),
        (CHAT, {"bad_words": "x"}, "bad_words"),
        (CHAT, {"bad_words": [""]}, "bad_words.0"),
        (CHAT, {"bad_words": ["x"] * 129}, "bad_words"),
        (CHAT, {"bad_words": ["x" * 129]}, "bad_words.0"),
        (
            CHAT,
            {"bad_words": ["".join(chr(0x10000 + 128 * n + m) for m in range(128)) for n in range(64)]},
            "bad_words",
        ),
        (CHAT, {"allowed_token_ids": []}, "allowed_token_ids"),
        (CHAT, {"allowed_token_ids": [100_000]}, "allowed_token_ids"),
        (CHAT, {"allowed_token_ids": [1] * 16_385}, "allowed_token_ids"),
        (CHAT, {"logprob_token_ids": [1]}, "logprob_token_ids"),
        (CHAT, {"logprobs": False, "logprob_token_ids": [1]}, "logprob_token_ids"),
        (CHAT, {"logprobs": True, "logprob_token_ids": [100_000]}, "logprob_token_ids"),
        (CHAT, {"logprobs": True, "logprob_token_ids": [1] * 129}, "logprob_token_ids"),
        (COMPLETIONS, {"logprob_token_ids": [1]}, "logprob_token_ids"),
        (COMPLETIONS, {"logprobs": 0, "echo": True, "max_tokens": 0, "logprob_token_ids": [1]}, "logprob_token_ids"),
        (COMPLETIONS, {"suffix": "end"}, "suffix"),
        (COMPLETIONS, {"best_of": 3}, "best_of"),
        (COMPLETIONS, {"stop_token_ids": [1.5]}, "stop_token_ids.0"),
    ],
    ids=str,
)
async def test_fields_of_openai(gateway: RunningGateway, path: str, fields: dict[str, Any], param: str) -> None:
    body = {"messages": [USER], **fields} if path == CHAT else {"prompt": "Hi", **fields}
    response = await gateway.http.post(path, json=body)
    assert response.status_code == 400
    assert message_of(response)
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert gateway.scheduler.requests == []


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/api/chat", {"model": ""}, "model is required"),
        ("/api/chat", {"messages": "Hi"}, "messages"),
        ("/api/chat", {"messages": [{"role": "boss", "content": "x"}]}, "messages.0.role"),
        ("/api/chat", {"messages": [{**USER, "images": ["aGk="]}]}, "messages.0.images"),
        ("/api/chat", {"tools": [{}]}, "tools"),
        ("/api/chat", {"think": True}, "think"),
        ("/api/chat", {"format": "yaml"}, "format"),
        ("/api/chat", {"format": ["json"]}, "format"),
        ("/api/chat", {"think": "much"}, "think"),
        ("/api/generate", {"think": True, "suffix": "x"}, "think"),
        ("/api/generate", {"system": "S", "suffix": "x"}, "system"),
        ("/api/chat", {"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        (
            "/api/chat",
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages.0.tool_calls.0",
        ),
        ("/api/chat", {"keep_alive": "soon"}, "keep_alive"),
        ("/api/chat", {"keep_alive": []}, "keep_alive"),
        ("/api/chat", {"options": {"temperature": "hot"}}, "options.temperature"),
        ("/api/chat", {"options": {"num_predict": 0}}, "options.num_predict"),
        ("/api/chat", {"options": {"num_predict": 1.5}}, "options.num_predict"),
        ("/api/chat", {"options": {"stop": [""]}}, "options.stop"),
        ("/api/chat", {"options": {"mirostat": 2}}, "options.mirostat"),
        ("/api/chat", {"options": {"typical_p": 0.5}}, "options.typical_p"),
        ("/api/chat", {"options": {"temperature": -1}}, "options.temperature"),
        ("/api/chat", {"options": {"num_ctx": 4096.5}}, "options.num_ctx"),
        ("/api/chat", {"options": []}, "options"),
        ("/api/chat", {"top_logprobs": 21}, "top_logprobs"),
        ("/api/generate", {"prompt": 5}, "prompt"),
        ("/api/generate", {"suffix": "x"}, "suffix"),
        ("/api/generate", {"images": ["aGk="]}, "images"),
        ("/api/generate", {"context": [-1]}, "context"),
        ("/api/generate", {"context": [100_000]}, "context"),
        ("/api/generate", {"raw": True, "context": [1]}, "context"),
        ("/api/generate", {"raw": True, "template": "x"}, "template"),
        ("/api/generate", {"template": "{{- if .System }}{{ .System }}{{ end }}"}, "this Go template is not known"),
        ("/api/generate", {"template": "{% for %}"}, "template"),
        ("/api/generate", {"template": "{{ raise_exception('no') }}"}, "no"),
        ("/api/generate", {"raw": True, "system": "S"}, "system"),
        ("/api/generate", {"stream": 1}, "stream"),
    ],
    ids=str,
)
async def test_fields_of_ollama(gateway: RunningGateway, path: str, fields: dict[str, Any], named: str) -> None:
    body = {"model": "tiny", "messages": [USER]} if path == "/api/chat" else {"model": "tiny", "prompt": "Hi"}
    response = await gateway.http.post(path, json=body | fields)
    assert response.status_code == 400
    assert named in message_of(response)
    assert gateway.scheduler.requests == []


@pytest.mark.parametrize("path", ["/api/generate", "/api/show"])
async def test_ollama_names_the_missing_model(gateway: RunningGateway, path: str) -> None:
    response = await gateway.http.post(path, json={})
    assert (response.status_code, message_of(response)) == (404, "model '' not found")


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 600}]}),
        (COMPLETIONS, {"prompt": "x" * 600}),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x" * 600}]}),
        ("/api/chat", {"model": "tiny", "messages": [USER, {"role": "user", "content": "x" * 600}], "truncate": False}),
        ("/api/generate", {"model": "tiny", "prompt": "x" * 600, "raw": True, "truncate": False}),
    ],
)
async def test_a_prompt_longer_than_the_window_names_both_numbers(
    gateway: RunningGateway, path: str, fields: dict[str, Any]
) -> None:
    response = await gateway.http.post(path, json=fields)
    assert response.status_code == 400
    assert "512 tokens" in message_of(response) and "contains 6" in message_of(response)


@pytest.mark.parametrize(
    ("method", "path", "status", "next_step"),
    [
        ("GET", "/v1/nothing", 404, "/docs lists all routes"),
        ("GET", "/api/nothing", 404, "/docs lists all routes"),
        ("GET", "/nothing", 404, "/docs lists all routes"),
        ("POST", "/chat/completions", 404, "Use /v1/chat/completions"),
        ("GET", CHAT, 405, "use POST"),
        ("DELETE", "/api/chat", 405, "use POST"),
        ("POST", "/v1/models", 405, "use"),
        ("POST", "/health", 405, "use"),
        ("POST", "/v1/responses/resp_1", 405, "use DELETE, GET, HEAD."),
    ],
)
async def test_unknown_routes(gateway: RunningGateway, method: str, path: str, status: int, next_step: str) -> None:
    response = await gateway.http.request(method, path)
    assert response.status_code == status
    assert next_step in message_of(response)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/embeddings", "Embeddings"),
        ("/api/embed", "Embeddings"),
        ("/api/embeddings", "Embeddings"),
        ("/v1/responses/compact", "Compaction"),
        ("/v1/images/generations", "Images"),
        ("/v1/audio/transcriptions", "Audio"),
        ("/rerank", "reranking"),
        ("/api/push", "Pushing"),
    ],
)
async def test_what_is_not_there_yet_is_refused_by_name(gateway: RunningGateway, path: str, named: str) -> None:
    response = await gateway.http.post(path, json={"model": "tiny"})
    assert response.status_code == 404
    assert response.headers["x-should-retry"] == "false"
    assert named in message_of(response)


async def test_what_no_scheduler_takes_ends_no_session(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request too large for a message is refused before it is sent, since the message would end the session with all requests."""
    monkeypatch.setattr("gateway.upstream.scheduler_session.MAX_REQUEST_BYTES", 200)
    large = {"prompt": "x" * 250, "max_tokens": 1}
    refused = await gateway.http.post(COMPLETIONS, json=large)
    assert refused.status_code == 400 and "a scheduler may take at most 200" in message_of(refused)
    assert not gateway.scheduler.requests
    monkeypatch.undo()
    assert (await gateway.http.post(COMPLETIONS, json=large)).status_code == 200
    gateway.scheduler.requests.clear()
