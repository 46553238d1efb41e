"""Tests of the response_template of a checkpoint: what has a counterpart is used, the rest is refused with a reason."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.errors import ResponseTemplateError
from pagoda.models.output_formats.description import CallSyntax, Slot, described_formats
from pagoda.models.output_formats.response_template import read_response_template

OBJECT = {"type": "function", "function": "{content}"}
NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
FORMATS = described_formats()


def calls_of(**field: Any) -> CallSyntax | None:
    return read_response_template({"start_anchor": "x", "fields": {"tool_calls": field}}).calls


def test_reasoning_and_calls_in_json_between_tags() -> None:
    fields = {
        "thinking": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": OBJECT,
        },
        "content": {"close": "<|im_end|>", "content": "text"},
    }
    read = read_response_template({"defaults": {"role": "assistant"}, "start_anchor": "x", "fields": fields})
    assert read.reasoning == FORMATS["hermes"].reasoning
    assert read.calls == FORMATS["hermes"].calls
    assert read.answer_markers == ("<|im_end|>",)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        (
            "qwen-xml",
            {
                "open_pattern": r"<tool_call>\s*<function=(?P<name>\w+)>",
                "close": "</tool_call>",
                "content": "xml-inline",
                "content_args": {"tag_pattern": r"<parameter=(?P<key>\w+)>\s*(?P<value>.*?)\s*</parameter>"},
                "transform": NAMED,
            },
        ),
        ("mistral", {"open": ["[TOOL_CALLS]"], "content": "json", "transform_each": True, "transform": OBJECT}),
        (
            "command-r7b",
            {
                "open": "<|START_ACTION|>",
                "close": "<|END_ACTION|>",
                "content": "json",
                "transform_each": True,
                "transform": {"function": {"name": "{tool_name}", "arguments": "{parameters}"}},
            },
        ),
        (
            "function-gemma",
            {
                "open_pattern": r"<start_function_call>call:(?P<name>\w+)",
                "close": "<end_function_call>",
                "content": "json",
                "content_args": {"unquoted_keys": True, "string_delims": [["<escape>", "<escape>"]]},
                "transform": NAMED,
            },
        ),
        (
            "mistral-v11",
            {"open_pattern": r"\[TOOL_CALLS\](?P<name>\w+)\[ARGS\]", "content": "json", "transform": NAMED},
        ),
    ],
)
def test_calls_of_a_known_format_are_those_of_its_description(name: str, field: dict[str, Any]) -> None:
    assert calls_of(**field) == FORMATS[name].calls


def test_calls_of_no_known_format() -> None:
    assert calls_of(open="<call>", close="</call>", content="json", transform=OBJECT) == CallSyntax(
        call=("<call>", Slot.OBJECT, "</call>")
    )
    keys = {"function": {"name": "{content.tool}", "arguments": "{content.input}"}}
    assert calls_of(open="<call>", close="</call>", content="json", transform=keys) == CallSyntax(
        call=("<call>", Slot.OBJECT, "</call>"), name_key="tool", arguments_key="input"
    )


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ({}, "no fields"),
        ({"version": 2, "fields": {"content": {}}}, "version"),
        ({"fields": {"citations": {}}}, "unknown fields: citations"),
        ({"fields": {"thinking": {"open": "<think>"}}}, "not between two texts"),
        ({"fields": {"thinking": {"open_pattern": "<a|b>", "close": "x"}}}, "no fixed text"),
        ({"fields": {"thinking": {"open": [""], "close": "x"}}}, "empty"),
        ({"fields": {"tool_calls": {"content": "json"}}}, "do not begin with a text"),
        ({"fields": {"tool_calls": {"open": "<a>", "content": "kv-lines"}}}, "no description of ours"),
        ({"fields": {"tool_calls": {"open": "<a>", "content": "json", "transform": {"x": "y"}}}}, "no name"),
        ({"fields": {"tool_calls": {"open_pattern": "<(?P<x>.)>", "content": "json"}}}, "unknown group"),
    ],
)
def test_the_reason_of_a_refusal_is_told(described: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResponseTemplateError, match=reason):
        read_response_template(described)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELD = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ["open", "close", "open_pattern", "close_pattern", "content", "content_args", "transform", "transform_each"],
        ANY_JSON | st.sampled_from(["json", "xml-inline", "{content}", r"<a (?P<name>\w+)>"]),
    ),
)


@given(fields=st.dictionaries(st.sampled_from(["thinking", "content", "tool_calls"]), FIELD))
def test_no_template_raises_another_error(fields: dict[str, Any]) -> None:
    with contextlib.suppress(ResponseTemplateError):
        read_response_template({"fields": fields})
