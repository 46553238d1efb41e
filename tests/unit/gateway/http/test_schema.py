"""Unknown fields are found where they are, and named in a way that any header can hold."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequestError
from gateway.http.schema import MAX_NAME_CHARACTERS, MAX_NAMED
from gateway.ollama import schemas as ollama
from gateway.ollama import store_schemas
from gateway.openai import schemas as openai

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(max_size=100) | st.sampled_from(["messages", "options", "model", "stream_options", "content"])


@given(body=st.dictionaries(NAMES, JSON, max_size=40))
def test_names_fit_into_a_header(body: dict[str, Any]) -> None:
    for schema in (openai.ChatRequest, openai.CompletionRequest, ollama.OllamaChatRequest, store_schemas.CreateRequest):
        named = schema.unknown_fields(body)
        assert len(named) <= MAX_NAMED + 1
        for name in named:
            assert re.fullmatch(r'[A-Za-z0-9_.?"-]+', name)
            assert all(len(part) <= MAX_NAME_CHARACTERS for part in name.split(".") if part)
        assert bool(named) >= bool(body.keys() - _known(schema))


def _known(schema: Any) -> set[str]:
    return set(schema.model_json_schema()["properties"])


@pytest.mark.parametrize(
    ("schema", "body", "named"),
    [
        (openai.ChatRequest, {"messages": [{"role": "user", "content": "x"}], "seed": 1}, ()),
        (
            openai.ChatRequest,
            {"messages": [1, "x", {"b": 1}], "stream_options": {"c": 1}},
            ("stream_options.c", "messages.2.b"),
        ),
        (openai.ChatRequest, {"messages": "x", "a": 1}, ("a",)),
        (openai.ChatRequest, {"messages": [{"content": [{"type": "text", "d": 1}]}]}, ("messages.0.content.0.d",)),
        (openai.TokenizeChatRequest, {"messages": [{"e": 1}]}, ("messages.0.e",)),
        (
            store_schemas.CreateRequest,
            {"from": "x", "from_": "y", "parameters": {"num_gqa": 1}},
            ("from_", "parameters.num_gqa"),
        ),
    ],
)
def test_fields_are_found_by_their_paths(schema: Any, body: dict[str, Any], named: tuple[str, ...]) -> None:
    assert schema.unknown_fields(body) == named


HI = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("schema", "field", "value", "message"),
    [
        (openai.ChatRequest, "temperature", 3.5, "temperature: must be a number from 0 to 2 (got 3.5)"),
        (openai.ChatRequest, "temperature", "hot", "temperature: must be a number from 0 to 2 (got 'hot')"),
        (openai.ChatRequest, "n", 0, "n: must be an integer from 1 to 128 (got 0)"),
        (openai.ChatRequest, "max_tokens", "10", "max_tokens: must be an integer of at least -1 (got '10')"),
        (
            openai.ChatRequest,
            "max_tokens",
            2**31,
            "max_tokens: must be an integer from -1 to 2147483647 (got 2147483648)",
        ),
        (
            openai.ChatRequest,
            "repetition_penalty",
            0,
            "repetition_penalty: must be a number above 0 and at most 100 (got 0)",
        ),
        (openai.ChatRequest, "stream", "yes", "stream: must be `true` or `false` (got 'yes')"),
        (openai.ChatRequest, "messages", [], "messages: must have at least 1 item (got [])"),
        (openai.ChatRequest, "messages", "Hi", "messages: must be a list of objects (got 'Hi')"),
        (openai.ChatRequest, "messages", ["Hi"], "messages.0: must be an object (got 'Hi')"),
        (openai.ChatRequest, "stream_options", 5, "stream_options: must be an object (got 5)"),
        (openai.ChatRequest, "logit_bias", {"a": 1}, "logit_bias: keys must be token ids, not 'a' (got {'a': 1})"),
        (ollama.OllamaChatRequest, "options", [1], "options: must be an object (got [1])"),
        (
            ollama.OllamaChatRequest,
            "options",
            {"num_ctx": 0},
            "options.num_ctx: must be an integer of at least 1 (got 0)",
        ),
    ],
)
def test_an_error_says_what_is_allowed_and_what_was_sent(schema: Any, field: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        schema.parse_body({"model": "m", "messages": HI, field: value})
    assert str(caught.value) == message


def test_every_bound_has_its_name_in_json_schema() -> None:
    number = openai.ChatRequest.model_json_schema()["properties"]["n"]["anyOf"][0]
    assert number == {"type": "integer", "minimum": 1, "maximum": 128}
