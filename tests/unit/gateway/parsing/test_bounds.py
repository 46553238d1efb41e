"""Tests of the parser's bounds: its work grows with the output only, and text that is held back is limited."""

import sys
from collections.abc import Sequence
from types import FrameType

import pytest

from gateway.parsing import text_reader
from gateway.parsing.parts import CallBegan, ContentPart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import described_formats
from tests.fakes.output_tokens import PieceTokenizer, parse

FORMATS = described_formats()
TOOLS = (Tool(name="f", parameters={"properties": {"n": {"type": "integer"}, "text": {"type": "string"}}}),)
LONG = [
    ("hermes", "<", "<"),
    ("hermes", "", "<tool_call>"),
    ("hermes", "", "\n"),
    ("hermes", '<tool_call>{"x": "', "a"),
    ("hermes", '<tool_call>{"arguments": {"a": "', "b"),
    ("hermes", '<tool_call>{"name": "f", "arguments": ', '{"a":'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1,', " "),
    ("qwen-xml", "<tool_call><function=f><parameter=n>", "1"),
    ("qwen-xml", "<tool_call><function=f><parameter=text>", "\n</param"),
    ("qwen-xml", "<tool_call><function=f><parameter=n>1</parameter>", "stray "),
    ("lfm2", "<|tool_call_start|>[f(a=", "["),
    ("lfm2", "<|tool_call_start|>[f(a=", "'a' "),
    ("gemma4", "<|tool_call>call:f{a:", '<|"|'),
    ("mistral", "[TOOL_CALLS] [", '{"x": 1}'),
]


def count_calls(name: str, tokenizer: PieceTokenizer, ids: Sequence[int]) -> int:
    """Return the number of Python's calls, those of built-in functions included, that parsing takes."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        parse(FORMATS[name], tokenizer, ids, tools=TOOLS)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(("name", "begin", "repeated"), LONG, ids=lambda value: repr(value)[:40])
def test_the_work_grows_with_the_output_only(name: str, begin: str, repeated: str) -> None:
    tokenizer = PieceTokenizer()
    short, long = (
        count_calls(name, tokenizer, tokenizer.cut(begin + repeated * number, [16])) for number in (400, 1600)
    )
    assert long < 5 * short


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_call_without_a_name_becomes_text_at_the_limit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reader, "MAX_UNREPORTED", 100)
    output = '<tool_call>{"arguments": {"text": "' + "x" * 200 + '"}, "name": "f"}</tool_call>'
    tokenizer = PieceTokenizer()
    assert parse(FORMATS["hermes"], tokenizer, tokenizer.cut(output, [size]), tools=TOOLS) == [ContentPart(output)]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_arguments_that_are_streamed_have_no_limit(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_reader, "MAX_UNREPORTED", 100)
    output = '<tool_call>{"name": "f", "arguments": {"text": "' + "x" * 200 + '"}}</tool_call>'
    tokenizer = PieceTokenizer()
    (began, _) = parse(FORMATS["hermes"], tokenizer, tokenizer.cut(output, [size]), tools=TOOLS)
    assert began == CallBegan(0, "0", "f")


@pytest.mark.parametrize("name", ["x" * 257, "a b", "", "a\nb"])
def test_a_name_that_is_no_name_makes_no_call(name: str) -> None:
    output = f"<tool_call><function={name}>\n</function></tool_call>"
    tokenizer = PieceTokenizer()
    assert parse(FORMATS["qwen-xml"], tokenizer, tokenizer.cut(output, [5]), tools=TOOLS) == [ContentPart(output)]
