"""Tests of every field in the table of docs/api-fields.md, with a value that is accepted and one that is refused by name."""

import hashlib
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from gateway.api_fields import BODIES, Body, markdown
from gateway.chat.structured_outputs import KINDS
from gateway.http.schema import Schema
from tests.fakes import response_bodies
from tests.fakes.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "Hi"}
WEATHER = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
TEXT_FORMAT = {"type": "json_schema", "schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
TABLE = Path(__file__).parents[2] / "docs" / "api-fields.md"
DIGEST_OF_NOTHING = f"sha256:{hashlib.sha256(b'').hexdigest()}"


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def shared_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory)) as running:
            yield running


Fields = Mapping[str, Any]


def in_calls(call: Fields) -> Fields:
    messages = [USER, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "18 degrees"}]
    return {"model": "tiny", "messages": messages}


# The method, the path, and the body around the tested fields.
REQUESTS: Mapping[str, tuple[str, str, Callable[[Fields], Fields]]] = {
    "POST /v1/chat/completions": ("POST", "/v1/chat/completions", lambda fields: {"messages": [USER], **fields}),
    "POST /v1/chat/completions: `messages`": (
        "POST",
        "/v1/chat/completions",
        lambda fields: {"messages": [{**USER, **fields}]},
    ),
    "POST /v1/chat/completions: parts of `content`": (
        "POST",
        "/v1/chat/completions",
        lambda fields: {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", **fields}]}]},
    ),
    "POST /v1/chat/completions: `messages.tool_calls`": (
        "POST",
        "/v1/chat/completions",
        lambda fields: {
            "messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f"}, **fields}]}]
        },
    ),
    "POST /v1/chat/completions: `messages.tool_calls.function`": (
        "POST",
        "/v1/chat/completions",
        lambda fields: {
            "messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", **fields}}]}]
        },
    ),
    "POST /v1/completions": ("POST", "/v1/completions", lambda fields: {"prompt": "Hi", **fields}),
    "POST /v1/chat/completions and /v1/completions: `stream_options`": (
        "POST",
        "/v1/completions",
        lambda fields: {"prompt": "Hi", "stream": True, "stream_options": dict(fields)},
    ),
    "POST /v1/chat/completions and /v1/completions: `response_format`": (
        "POST",
        "/v1/completions",
        lambda fields: {"prompt": "Hi", "response_format": {"type": "json_object", **fields}},
    ),
    "POST /v1/chat/completions and /v1/completions: `response_format.json_schema`": (
        "POST",
        "/v1/completions",
        lambda fields: {
            "prompt": "Hi",
            "response_format": {"type": "json_schema", "json_schema": {"schema": {}, **fields}},
        },
    ),
    "POST /v1/chat/completions and /v1/completions: `structured_outputs`": (
        "POST",
        "/v1/completions",
        lambda fields: {
            "prompt": "Hi",
            "structured_outputs": fields if fields.keys() & set(KINDS) else {"regex": "x", **fields},
        },
    ),
    "POST /tokenize, of a prompt": ("POST", "/tokenize", lambda fields: {"prompt": "Hi", **fields}),
    "POST /tokenize, of a conversation": ("POST", "/tokenize", lambda fields: {"messages": [USER], **fields}),
    "POST /detokenize": ("POST", "/detokenize", lambda fields: {"tokens": [1], **fields}),
    "POST /api/generate": ("POST", "/api/generate", lambda fields: {"model": "tiny", "prompt": "Hi", **fields}),
    "POST /api/chat": ("POST", "/api/chat", lambda fields: {"model": "tiny", "messages": [USER], **fields}),
    "POST /api/chat: `messages`": (
        "POST",
        "/api/chat",
        lambda fields: {"model": "tiny", "messages": [{**USER, **fields}]},
    ),
    "POST /api/chat: `tool_calls` of messages": (
        "POST",
        "/api/chat",
        lambda fields: in_calls({"function": {"name": "weather"}, **fields}),
    ),
    "POST /api/chat: `function` of tool calls": (
        "POST",
        "/api/chat",
        lambda fields: in_calls({"function": {"name": "weather", **fields}}),
    ),
    "POST /api/generate and /api/chat: `options`": (
        "POST",
        "/api/generate",
        lambda fields: {"model": "tiny", "prompt": "Hi", "options": dict(fields)},
    ),
    "POST /api/show": ("POST", "/api/show", lambda fields: {"model": "tiny", **fields}),
    "POST /api/pull": ("POST", "/api/pull", lambda fields: {"model": "there", **fields}),
    "POST /api/create": ("POST", "/api/create", lambda fields: {"model": "new", "from": "tiny", **fields}),
    "POST /api/copy": ("POST", "/api/copy", lambda fields: {"source": "tiny", "destination": "new", **fields}),
    "DELETE /api/delete": ("DELETE", "/api/delete", lambda fields: {"model": "there", **fields}),
}


def in_messages(around: Callable[[Fields], Fields]) -> tuple[str, str, Callable[[Fields], Fields]]:
    return "POST", "/v1/messages", lambda fields: {"messages": [USER], "max_tokens": 4, **around(fields)}


def in_answer(fields: Fields) -> Fields:
    return {"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Hi", **fields}]}]}


MESSAGES = "POST /v1/messages"
REQUESTS = {
    **REQUESTS,
    MESSAGES: in_messages(lambda fields: fields),
    f"{MESSAGES}/count_tokens": ("POST", "/v1/messages/count_tokens", lambda fields: {"messages": [USER], **fields}),
    f"{MESSAGES}: `messages`": in_messages(lambda fields: {"messages": [{**USER, **fields}]}),
    f"{MESSAGES}: blocks of `content`": in_messages(in_answer),
    f"{MESSAGES}: blocks of `system`": in_messages(
        lambda fields: {"system": [{"type": "text", "text": "S", **fields}]}
    ),
    f"{MESSAGES}: `tools`": in_messages(lambda fields: {"tools": [{**WEATHER, **fields}]}),
    f"{MESSAGES}: `tool_choice`": in_messages(
        lambda fields: {"tools": [WEATHER], "tool_choice": {"type": "auto", **fields}}
    ),
    f"{MESSAGES}: `thinking`": in_messages(lambda fields: {"thinking": {"type": "disabled", **fields}}),
    f"{MESSAGES}: `output_config`": in_messages(lambda fields: {"output_config": fields}),
    f"{MESSAGES}: `output_format`": in_messages(lambda fields: {"output_format": {**TEXT_FORMAT, **fields}}),
}
REQUESTS = {**REQUESTS, **response_bodies.REQUESTS}
# A valid value of each honoured field.
ALLOWED: Mapping[str, Any] = {
    "add_generation_prompt": False,
    "add_special_tokens": False,
    "allowed_token_ids": [5, 6],
    "bad_words": ["bad"],
    "arguments": {},
    "best_of": 1,
    "cache_salt": "mine",
    "chat_template_kwargs": {"enable_thinking": False},
    "choice": ["yes", "no"],
    "content": "Hi",
    "context": [72, 105],
    "continue_final_message": True,
    "continuous_usage_stats": True,
    "destination": "new",
    "documents": [],
    "disable_additional_properties": True,
    "disable_any_whitespace": True,
    "echo": True,
    "format": {"type": "const_string", "value": "x"},
    "frequency_penalty": 0.5,
    "from": "there",
    "function": {"name": "f"},
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "id": "call",
    "grammar": 'root ::= "x"',
    "guided_choice": ["yes", "no"],
    "guided_grammar": 'root ::= "x"',
    "guided_json": {"type": "object"},
    "guided_regex": "[a-z]+",
    "guided_whitespace_pattern": " ",
    "ignore_eos": True,
    "include_reasoning": False,
    "include_stop_str_in_output": True,
    "include_usage": True,
    "insecure": True,
    "json": {"type": "object"},
    "json_object": True,
    "json_schema": {"type": "object"},
    "keep_alive": "5m",
    "license": ["MIT"],
    "logit_bias": {"5": 1.0},
    "logprob_token_ids": [7],
    "logprobs": True,
    "max_completion_tokens": 4,
    "max_tokens": 4,
    "messages": [USER],
    "min_p": 0.1,
    "min_tokens": 1,
    "model": "tiny",
    "n": 2,
    "n_predict": 4,
    "name": "there",
    "num_ctx": 128,
    "num_predict": 4,
    "options": {"seed": 1},
    "parameters": {"seed": 1},
    "parallel_tool_calls": False,
    "presence_penalty": 0.5,
    "priority": 1,
    "prompt": "Hi",
    "prompt_logprobs": 1,
    "raw": True,
    "reasoning": "hm",
    "reasoning_content": "hm",
    "reasoning_effort": "none",
    "regex": "[a-z]+",
    "repeat_last_n": 8,
    "repeat_penalty": 1.1,
    "repetition_penalty": 1.1,
    "request_id": "mine",
    "response_format": {"type": "json_object"},
    "return_token_ids": True,
    "return_token_strs": True,
    "return_tokens_as_token_ids": True,
    "role": "user",
    "schema": {"type": "object"},
    "seed": 1,
    "skip_special_tokens": False,
    "source": "there",
    "stop": ["x"],
    "stop_token_ids": [7],
    "stream": False,
    "stream_options": {"include_usage": True},
    "strict": True,
    "structural_tag": {"format": {"type": "const_string", "value": "x"}},
    "structured_outputs": {"regex": "[a-z]+"},
    "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}],
    "system": "S",
    "temperature": 0.5,
    "template": "{{ messages[-1].content }}",
    "text": "Hi",
    "think": False,
    "thinking_token_budget": 5,
    "tokens": [1],
    "tool_call_id": "call",
    "tool_calls": [{"function": {"name": "f"}}],
    "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "top_k": 5,
    "top_logprobs": 2,
    "top_p": 0.5,
    "triggers": ["<a"],
    "truncate": False,
    "truncate_prompt_tokens": 5,
    "truncation_side": "left",
    "type": "text",
    "verbose": True,
    "whitespace_pattern": " ",
}
# Valid values of fields whose name means something else in this route.
ALLOWED_IN: Mapping[tuple[str, str], Any] = {
    ("POST /v1/chat/completions: `messages`", "function_call"): {"name": "f"},
    ("POST /v1/chat/completions: `messages.tool_calls.function`", "name"): "f",
    ("POST /v1/chat/completions: `messages.tool_calls`", "type"): "function",
    ("POST /v1/chat/completions and /v1/completions: `response_format`", "json_schema"): {"schema": {}},
    ("POST /v1/completions", "logprobs"): 2,
    ("POST /api/create", "model"): "new",
    ("POST /api/create", "name"): "new",
    ("POST /api/create", "files"): {"model.gguf": DIGEST_OF_NOTHING},
    ("POST /api/pull", "model"): "there",
    ("DELETE /api/delete", "model"): "there",
}
ALLOWED_IN = {
    **ALLOWED_IN,
    **{
        (f"{MESSAGES}{path}", name): value
        for path in ("", "/count_tokens")
        for name, value in {
            "output_config": {"effort": "low"},
            "output_format": TEXT_FORMAT,
            "stop_sequences": ["x"],
            "thinking": {"type": "disabled"},
            "tool_choice": {"type": "auto"},
            "tools": [WEATHER],
        }.items()
    },
    **{
        (f"{MESSAGES}: blocks of `content`", name): value
        for name, value in {
            "id": "call_1",
            "input": {"city": "Lima"},
            "is_error": True,
            "name": "weather",
            "thinking": "Hm",
            "tool_use_id": "call_1",
        }.items()
    },
    (f"{MESSAGES}: `tools`", "description"): "Weather of a city",
    (f"{MESSAGES}: `tools`", "input_schema"): WEATHER["input_schema"],
    (f"{MESSAGES}: `tools`", "name"): "weather",
    (f"{MESSAGES}: `tools`", "strict"): True,
    (f"{MESSAGES}: `tools`", "type"): "custom",
    (f"{MESSAGES}: `tool_choice`", "disable_parallel_tool_use"): True,
    (f"{MESSAGES}: `tool_choice`", "name"): "weather",
    (f"{MESSAGES}: `tool_choice`", "type"): "any",
    (f"{MESSAGES}: `thinking`", "budget_tokens"): 1024,
    (f"{MESSAGES}: `thinking`", "display"): "omitted",
    (f"{MESSAGES}: `thinking`", "type"): "adaptive",
    (f"{MESSAGES}: `output_config`", "effort"): "low",
    (f"{MESSAGES}: `output_config`", "format"): TEXT_FORMAT,
    (f"{MESSAGES}: `output_format`", "schema"): TEXT_FORMAT["schema"],
    (f"{MESSAGES}: `output_format`", "type"): "json_schema",
}
CALLS = [{"id": "call_1", "function": {"name": "weather", "arguments": {"city": "Lima"}}}]
OLLAMA_TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER["input_schema"]}}]
ALLOWED_IN = {
    **ALLOWED_IN,
    ("POST /v1/completions", "suffix"): "",
    ("POST /v1/chat/completions", "chat_template"): "{{ messages[-1].content }}",
    ("POST /tokenize, of a conversation", "chat_template"): "{{ messages[-1].content }}",
    ("POST /api/generate", "suffix"): "",
    **{
        (f"POST /api/{path}", name): value
        for path in ("chat", "generate")
        for name, value in {"_debug_render_only": True, "format": {"type": "object"}, "tools": OLLAMA_TOOLS}.items()
    },
    ("POST /api/chat: `messages`", "thinking"): "Hm",
    ("POST /api/chat: `messages`", "tool_call_id"): "call_1",
    ("POST /api/chat: `messages`", "tool_calls"): CALLS,
    ("POST /api/chat: `messages`", "tool_name"): "weather",
    ("POST /api/chat: `tool_calls` of messages", "function"): {"name": "weather", "arguments": {"city": "Lima"}},
    ("POST /api/chat: `tool_calls` of messages", "id"): "call_1",
    ("POST /api/chat: `function` of tool calls", "arguments"): {"city": "Lima"},
    ("POST /api/chat: `function` of tool calls", "name"): "weather",
}
ALLOWED_IN = {**ALLOWED_IN, **response_bodies.ALLOWED}
# Other fields that a field needs.
COMPANIONS: Mapping[str, Fields] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True},
    "function_call": {"role": "assistant", "functions": [{"name": "f"}]},
    "tool_call_id": {"role": "tool"},
    "tool_calls": {"role": "assistant"},
    "disable_additional_properties": {"json_object": True},
    "disable_any_whitespace": {"json_object": True},
    "format": {"type": "structural_tag"},
    "guided_whitespace_pattern": {"guided_json": {}},
    "json_schema": {"type": "json_schema"},
    "structures": {"type": "structural_tag", "triggers": ["<a"]},
    "triggers": {"type": "structural_tag", "structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}]},
    "whitespace_pattern": {"json_object": True},
}
# The rest of a request with an unknown field.
REQUIRED: Mapping[str, Fields] = {"DELETE /api/delete": {"model": "there"}}
UNLIKELY = ("surprise", 7, True, ["surprise"], {"surprise": 1})

FIELDS = [(body, name) for body in BODIES for name in body.schema.model_json_schema()["properties"]]
REFUSING = [(body, name) for body, name in FIELDS if name not in body.schema.hints]


def id_of(value: Body | str) -> str:
    return value.title if isinstance(value, Body) else value


def is_honoured(schema: type[Schema], name: str) -> bool:
    return name not in schema.hints and name not in schema.neutral


EACH_FIELD = "a request with each field is asked for"


def allowed_value(body: Body, name: str) -> Any:
    assert (body.title, name) in ALLOWED_IN or name in ALLOWED, (
        f"{EACH_FIELD}: give `{name}` of `{body.title}` a value in ALLOWED, or in ALLOWED_IN where it differs from other bodies'"
    )
    return ALLOWED_IN[body.title, name] if (body.title, name) in ALLOWED_IN else ALLOWED[name]


def companions(body: Body, name: str) -> Fields:
    return {"logprobs": allowed_value(body, "logprobs")} if name == "logprob_token_ids" else COMPANIONS.get(name, {})


async def send(gateway: RunningGateway, body: Body, fields: Fields) -> httpx.Response:
    assert body.title in REQUESTS, f"{EACH_FIELD}: say in REQUESTS how a field gets into `{body.title}`"
    method, path, around = REQUESTS[body.title]
    return await gateway.http.request(method, path, json=around(fields))


async def test_what_a_new_field_needs_is_said(gateway: RunningGateway) -> None:
    body = Body("POST /v1/later", Schema)
    with pytest.raises(AssertionError, match=r"^a request with each field is asked for: .* `surprise` .*ALLOWED"):
        allowed_value(body, "surprise")
    with pytest.raises(AssertionError, match=r"^a request with each field is asked for: .*REQUESTS.* `POST /v1/later`"):
        await send(gateway, body, {"surprise": 1})


async def test_the_table_is_what_the_code_says() -> None:
    assert TABLE.read_text() == markdown(), "run 'make docs'"


@pytest.mark.parametrize(("body", "name"), FIELDS, ids=id_of)
async def test_an_accepted_value(gateway: RunningGateway, body: Body, name: str) -> None:
    await gateway.http.post("/api/copy", json={"source": "tiny", "destination": "there"})
    if name in body.schema.neutral:
        value = next(iter(body.schema.neutral[name]), None)
    elif name in body.schema.hints:
        value = UNLIKELY[0]
    else:
        value = allowed_value(body, name)
    response = await send(gateway, body, {name: value, **companions(body, name)})
    if name == "files":  # the only value that the table cannot contain: the digest of an uploaded file
        assert response.status_code == 400 and "exclude each other" in response.text
    elif name == "previous_response_id":  # nor the id of a response that is stored
        assert response.status_code == 404 and f"'{value}'" in response.text
    else:
        assert response.status_code == 200, response.text
        assert not re.search(r'"error":(?!null)', response.text)


def is_integer(schema: type[Schema], name: str) -> bool:
    described = schema.model_json_schema()["properties"][name]
    return is_honoured(schema, name) and "integer" in [each.get("type") for each in described.get("anyOf", [described])]


@pytest.mark.parametrize(("body", "name"), [each for each in FIELDS if is_integer(each[0].schema, each[1])], ids=id_of)
async def test_a_whole_number_may_have_a_point(gateway: RunningGateway, body: Body, name: str) -> None:
    value = allowed_value(body, name)
    whole = await send(gateway, body, {name: float(value), **companions(body, name)})
    assert whole.status_code == 200, whole.text
    broken = await send(gateway, body, {name: value + 0.5, **companions(body, name)})
    assert broken.status_code == 400 and name in broken.text


@pytest.mark.parametrize(("body", "name"), REFUSING, ids=id_of)
async def test_a_refused_value_is_named(gateway: RunningGateway, body: Body, name: str) -> None:
    value: Any
    if is_honoured(body.schema, name):
        allowed = allowed_value(body, name)
        value = 7 if isinstance(allowed, dict) else {"surprise": 1}
    else:
        value = next(each for each in UNLIKELY if each not in body.schema.neutral[name])
    response = await send(gateway, body, {name: value})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert name in (error if isinstance(error, str) else f"{error.get('param')} {error['message']}")


@pytest.mark.parametrize(("body", "name"), [(body, name) for body in BODIES for name in body.schema.instead], ids=id_of)
async def test_a_field_of_another_api_is_an_error_with_the_one_to_use(
    gateway: RunningGateway, body: Body, name: str
) -> None:
    response = await send(gateway, body, {name: {"type": "json_object"}})
    assert response.status_code == 400
    assert f"use `{body.schema.instead[name]}`" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.title)
async def test_a_field_that_is_in_no_table_is_named_in_a_header(gateway: RunningGateway, body: Body) -> None:
    await gateway.http.post("/api/copy", json={"source": "tiny", "destination": "there"})
    response = await send(gateway, body, {"surprise": 1, **REQUIRED.get(body.title, {})})
    assert response.status_code == 200, response.text
    assert response.headers["x-pagoda-ignored"].rpartition(".")[2] == "surprise"
