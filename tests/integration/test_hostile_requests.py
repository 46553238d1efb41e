"""Tests that no request stops the gateway: its loop is blocked for at most 250 ms of processor time, and streams continue."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.hostile import MODEL, WINDOW, Attack, HostileGateway, hostile_gateway

# All tests use the same gateway, with the same stream.
pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "a"}
BODY_BYTES = 8 * 1024 * 1024 - 1024
"""Length of a body just below the limit, in bytes."""


USER_JSON = b'{"role":"user","content":"a"}'


def repeated(unit: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """Return a body of BODY_BYTES that repeats the unit."""
    return before + b",".join([unit] * ((BODY_BYTES - len(before) - len(after)) // (len(unit) + 1))) + after


def numbered(unit: bytes, before: bytes, after: bytes = b"}") -> bytes:
    """Return a body like `repeated`, with another number in each unit."""
    count = (BODY_BYTES - len(before) - len(after)) // (len(unit % 10**6) + 1)
    return before + b",".join(unit % (10**6 + index) for index in range(count)) + after


def in_chat(field: bytes) -> tuple[bytes, bytes]:
    return b'{"messages":[' + USER_JSON + b'],"' + field + b'":', b"}"


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def hostile() -> AsyncIterator[HostileGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with hostile_gateway(Path(directory)) as running:
            yield running


def chat(**fields: Any) -> Attack:
    return Attack(path=CHAT, body={"messages": [USER]} | fields)


def completion(prompt: Any, **fields: Any) -> Attack:
    return Attack(path=COMPLETIONS, body={"prompt": prompt, "max_tokens": 1} | fields)


def generate(**fields: Any) -> Attack:
    return Attack(path="/api/generate", body={"model": MODEL, "prompt": "a"} | fields)


LONG_TEXTS = {
    "letters": "a" * BODY_BYTES,
    "spaces": " " * BODY_BYTES,
    "digits": "1" * BODY_BYTES,
    "emoji": "👨‍👩‍👧" * (BODY_BYTES // 18),
    "special tokens": "<|im_start|>" * (BODY_BYTES // 12),
}


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS.keys())
async def test_long_texts(gateway: HostileGateway, text: str) -> None:
    for attack in (
        completion(text),
        completion(text, truncate_prompt_tokens=-1),
        completion([text[: BODY_BYTES // 1100]] * 1000),
        chat(messages=[USER | {"content": text}]),
        generate(prompt=text, raw=True),
        Attack(path="/tokenize", body={"prompt": text, "return_token_strs": True}),
    ):
        await gateway.withstands(attack)


@pytest.mark.parametrize("prompt", ["a" * (WINDOW - 2), [97] * (WINDOW - 2)], ids=["text", "token ids"])
async def test_a_prompt_as_long_as_the_window_is_served(gateway: HostileGateway, prompt: str | list[int]) -> None:
    response = await gateway.withstands(completion(prompt))
    assert response.json()["usage"]["prompt_tokens"] == WINDOW - 2


@pytest.mark.parametrize("text", ["1" * 100_000, "1." * 1_000_000, "1m" * 1_000_000, "-" + ".5h" * 1_000_000])
async def test_durations(gateway: HostileGateway, text: str) -> None:
    await gateway.withstands(generate(keep_alive=text))


MANY_VALUES = {
    "empty messages": (CHAT, repeated(b'{"role":"user","content":""}', b'{"messages":[', b"]}")),
    "messages that are none": (CHAT, repeated(b"1", b'{"messages":[', b"]}")),
    "empty objects as messages": (CHAT, repeated(b"{}", b'{"messages":[', b"]}")),
    "parts": (
        CHAT,
        repeated(b'{"type":"text","text":""}', b'{"messages":[{"role":"user","content":[', b"]}]}"),
    ),
    "messages of Ollama": (
        "/api/chat",
        repeated(b'{"role":"user","content":""}', b'{"model":"tiny","messages":[', b"]}"),
    ),
    "messages to tokenize": ("/tokenize", repeated(b'{"role":"user","content":""}', b'{"messages":[', b"]}")),
    "messages of a model": (
        "/api/create",
        repeated(b'{"role":"user","content":""}', b'{"model":"x","from":"tiny","messages":[', b"]}"),
    ),
    "metadata": (CHAT, repeated(b"[]", b'{"messages":[' + USER_JSON + b'],"metadata":[', b"]}")),
    "tools": (CHAT, repeated(b"[]", b'{"messages":[' + USER_JSON + b'],"tools":[', b"]}")),
    "unknown fields": (CHAT, numbered(b'"x%d":1', b'{"messages":[' + USER_JSON + b"],")),
    "logit_bias": (CHAT, numbered(b'"%d":1', b'{"messages":[' + USER_JSON + b'],"logit_bias":{', b"}}")),
    "stop": (CHAT, repeated(b'"ab"', b'{"messages":[' + USER_JSON + b'],"stop":[', b"]}")),
    "stop_token_ids": (CHAT, repeated(b"1", b'{"messages":[' + USER_JSON + b'],"stop_token_ids":[', b"]}")),
    "token ids": (COMPLETIONS, repeated(b"97", b'{"prompt":[', b"]}")),
    "lists of token ids": (COMPLETIONS, repeated(b"[97]", b'{"prompt":[', b"]}")),
    "prompts": (COMPLETIONS, repeated(b'""', b'{"prompt":[', b"]}")),
    "tokens to detokenize": ("/detokenize", repeated(b"97", b'{"tokens":[', b"]}")),
    "context": ("/api/generate", repeated(b"97", b'{"model":"tiny","prompt":"a","context":[', b"]}")),
    "options": ("/api/chat", numbered(b'"x%d":1', b'{"model":"tiny","messages":[],"options":{', b"}}")),
    "files": ("/api/create", numbered(b'"%d":""', b'{"model":"x","files":{', b"}}")),
    "licences": ("/api/create", repeated(b'""', b'{"model":"x","from":"tiny","license":[', b"]}")),
}


@pytest.mark.parametrize(("path", "body"), MANY_VALUES.values(), ids=MANY_VALUES.keys())
async def test_very_many_values(gateway: HostileGateway, path: str, body: bytes) -> None:
    await gateway.withstands(Attack(path=path, body=body, statuses=frozenset({400})))


AS_MANY_AS_ALLOWED = {
    "empty messages": (CHAT, {"messages": [{"role": "user", "content": ""}] * 10_000}),
    "messages of one part": (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 5000}),
    "parts": (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 10_000}]}),
    "wrong messages": (CHAT, {"messages": [1] * 790_000}),
    "wrong objects as messages": (CHAT, {"messages": [{}] * 19_000}),
    "wrong token ids": (COMPLETIONS, {"prompt": [-1] * 790_000}),
    "whole floats as token ids": (COMPLETIONS, {"prompt": [97.0] * 790_000}),
    "token ids": (COMPLETIONS, {"prompt": [97] * 790_000}),
    "prompts": (COMPLETIONS, {"prompt": ["1" * 1000] * 1024, "max_tokens": 1}),
    "tokens to detokenize": ("/detokenize", {"tokens": [97] * 790_000}),
    "text to tokenize": ("/tokenize", {"prompt": "1" * 260_000, "return_token_strs": True}),
    "lists in a hint": (CHAT, {"messages": [USER], "metadata": [[]] * 19_000}),
    "logit_bias": (CHAT, {"messages": [USER], "logit_bias": {str(number): "x" for number in range(45_000)}}),
    "unknown fields": (CHAT, {"messages": [USER]} | {str(number): 1 for number in range(85_000)}),
    "scored prompt": (COMPLETIONS, {"prompt": "a" * 14_000, "max_tokens": 1, "echo": True, "logprobs": 20}),
    "scored answers": (CHAT, {"messages": [USER], "n": 128, "logprobs": True, "top_logprobs": 20}),
    "stop strings": (CHAT, {"messages": [USER], "n": 128, "stop": [f"{n:02}" + "Hel" * 340 for n in range(64)]}),
    "brackets in a text": (CHAT, {"messages": [{"role": "user", "content": '[{"a": "b"}, ' * 5000}]}),
}


@pytest.mark.parametrize(("path", "body"), AS_MANY_AS_ALLOWED.values(), ids=AS_MANY_AS_ALLOWED.keys())
async def test_as_much_as_is_allowed(gateway: HostileGateway, path: str, body: Any) -> None:
    await gateway.withstands(Attack(path=path, body=body))


FIELDS_OF_ANY_TYPE = [
    (CHAT, field)
    for field in (
        b"tools",
        b"metadata",
        b"response_format",
        b"stop",
        b"logit_bias",
        b"model",
        b"temperature",
        b"stream_options",
        b"surprise",
        b"chat_template_kwargs",
        b"seed",
        b"n",
    )
] + [("/api/chat", field) for field in (b"format", b"options", b"tools", b"keep_alive", b"think", b"messages")]


@pytest.mark.parametrize(("path", "field"), FIELDS_OF_ANY_TYPE)
async def test_values_nested_as_deep_as_a_parser_goes(gateway: HostileGateway, path: str, field: bytes) -> None:
    before = b'{"model":"tiny","messages":[' + USER_JSON + b'],"' + field + b'":'
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        for depth in (100, 900, 960, 1000, 1022, 1023, 5000):
            body = before + opening * depth + b"1" + closing * depth + b"}"
            await gateway.withstands(Attack(path=path, body=body))


LONG_STRINGS = [
    (CHAT, "model"),
    (CHAT, "stop"),
    (CHAT, "request_id"),
    (CHAT, "cache_salt"),
    (CHAT, "truncation_side"),
    (CHAT, "user"),
    (CHAT, "x" * 1_000_000),
    ("/api/chat", "model"),
    ("/api/chat", "format"),
    ("/api/generate", "system"),
    ("/api/generate", "model"),
    ("/api/show", "model"),
    ("/api/pull", "model"),
    ("/api/delete", "model"),
    ("/api/copy", "source"),
    ("/api/copy", "destination"),
    ("/api/create", "from"),
    ("/api/create", "model"),
]


@pytest.mark.parametrize(("path", "field"), LONG_STRINGS, ids=lambda value: value[:20])
async def test_long_strings_where_short_ones_belong(gateway: HostileGateway, path: str, field: str) -> None:
    for text in ("a" * 4_000_000, "a/" * 2_000_000, "-" * 4_000_000, "塔:" * 1_000_000):
        body = {"model": MODEL, "messages": [USER]} if path in (CHAT, "/api/chat") else {"model": MODEL}
        method = "DELETE" if path == "/api/delete" else "POST"
        response = await gateway.withstands(Attack(path=path, method=method, body=body | {field: text}))
        assert len(response.content) < 2000


LONG_HEADERS = ("x-request-id", "traceparent", "tracestate", "origin", "host", "authorization", "x-api-key", "cookie")


@pytest.mark.parametrize("name", LONG_HEADERS)
async def test_long_headers(gateway: HostileGateway, name: str) -> None:
    for value in ("a" * 60_000, "-" * 60_000, "https://" * 7000, "a=b," * 15_000, "0" * 60_000, ":" * 60_000):
        await gateway.withstands(Attack(path="/v1/models", method="GET", headers={name: value}))


@pytest.mark.parametrize("path", ["/v1/models/", "/api/blobs/sha256:", "/", "/v1/", "//", "/v1/models?a="])
async def test_long_paths(gateway: HostileGateway, path: str) -> None:
    for text in ("a" * 60_000, "/" * 60_000, "%2e%2e/" * 8000, "a=b&" * 15_000, ":" * 60_000):
        await gateway.withstands(Attack(path=path + text, method="GET"))


@pytest.mark.parametrize("before", ["GET /", "GET / HTTP/1.1\r\nhost: localhost\r\nx: "])
async def test_a_head_without_end(gateway: HostileGateway, before: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(before.encode())
    with contextlib.suppress(ConnectionError):
        for _ in range(90):
            writer.write(b"a" * 1_000_000)
            await writer.drain()
        await reader.read()
    writer.close()
    await gateway.withstands(chat())


async def test_silent_connections_are_closed_to_make_room() -> None:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with hostile_gateway(Path(directory), "--max-connections", "20") as gateway:
            port = int(gateway.url.rpartition(":")[2])
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
            await gateway.withstands(chat())
            for _, writer in silent:
                writer.close()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELD_NAMES = (
    *("messages", "prompt", "model", "stop", "logit_bias", "tools", "options", "keep_alive", "format", "template"),
    *("system", "context", "seed", "n", "max_tokens", "metadata", "response_format", "stream_options", "raw"),
    *("chat_template_kwargs", "tokens", "input", "surprise"),
)
FIELDS = st.sampled_from(FIELD_NAMES)
PATHS = st.sampled_from(
    [
        CHAT,
        COMPLETIONS,
        "/tokenize",
        "/detokenize",
        "/api/chat",
        "/api/generate",
        "/api/show",
        "/api/create",
        "/api/copy",
    ]
)


@st.composite
def hostile_bodies(draw: st.DrawFn) -> bytes:
    """Generate a request with one value that is very long, deeply nested or has many elements."""
    body: dict[str, Any] = {"model": MODEL, "prompt": "a", "messages": [USER], "stream": False, "max_tokens": 1}
    field, unit = draw(FIELDS), orjson.dumps(draw(JSON_VALUES))
    body.pop(field, None)
    before = orjson.dumps(body)[:-1] + b"," + orjson.dumps(field) + b":"
    size = draw(st.sampled_from([10, 1000, 100_000, 7_000_000]))
    match draw(st.sampled_from(["many", "names", "long", "deep", "messages"])):
        case "many":
            value = b"[" + b",".join([unit] * (size // (len(unit) + 1) + 1)) + b"]"
        case "names":
            count = size // (len(unit) + 10) + 1
            value = b"{" + b",".join(b'"%d":%b' % (index, unit) for index in range(count)) + b"}"
        case "long":
            piece = draw(st.text(min_size=1, max_size=5))
            value = orjson.dumps(piece * (size // len(piece.encode())))
        case "deep":
            depth = draw(st.integers(1, 1024))
            value = b"[" * depth + unit + b"]" * depth
        case _:
            message = b'{"role":"user","content":%b}' % unit
            value = b"[" + b",".join([message] * (size // len(message) + 1)) + b"]"
    return before + value + b"}"


@settings(max_examples=60, suppress_health_check=list(HealthCheck), print_blob=True)
@given(path=PATHS, body=hostile_bodies())
async def test_any_value_many_long_or_deep(gateway: HostileGateway, path: str, body: bytes) -> None:
    await gateway.withstands(Attack(path=path, body=body))


@pytest.mark.parametrize("count", [500, 30_000])
async def test_pipelined_requests(gateway: HostileGateway, count: int) -> None:
    """Pipelined requests are answered; the last one closes the connection, so that the answers end."""
    await gateway.withstands_bytes(b"GET /ping HTTP/1.1\r\n\r\n" * count + b"GET /ping HTTP/1.0\r\n\r\n")
