"""Unknown fields are found where they are, and named in a way that any header can hold."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.schema import MAX_NAME_CHARACTERS, MAX_NAMED
from gateway.ollama import schemas as ollama
from gateway.openai import schemas as openai

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text(max_size=100) | st.sampled_from(["messages", "options", "model", "stream_options", "content"])


@given(body=st.dictionaries(NAMES, JSON, max_size=40))
def test_names_fit_into_a_header(body: dict[str, Any]) -> None:
    for schema in (openai.ChatRequest, openai.CompletionRequest, ollama.OllamaChatRequest, ollama.CreateRequest):
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
            ollama.CreateRequest,
            {"from": "x", "from_": "y", "parameters": {"num_gqa": 1}},
            ("from_", "parameters.num_gqa"),
        ),
    ],
)
def test_fields_are_found_by_their_paths(schema: Any, body: dict[str, Any], named: tuple[str, ...]) -> None:
    assert schema.unknown_fields(body) == named
