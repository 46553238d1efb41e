"""Tests of the parser of outputs: reasoning, text and calls, the same however the output is cut into tokens."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.parsing.output_parser import OutputParser
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import described_formats, read_format
from tests.fakes.output_tokens import PieceTokenizer, parse

HERMES = described_formats()["hermes"]
TOOLS = (
    Tool(
        name="get_weather",
        parameters={"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    ),
    Tool(name="now"),
)
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CALLED = [CallBegan(0, "0", "get_weather"), CallArguments(0, '{"city": "Paris"}')]


def parsed(
    text: str,
    *,
    name: str = "hermes",
    tools: Sequence[Tool] = TOOLS,
    reasoning: ReasoningStart = ReasoningStart.MAY_OPEN,
    control: Sequence[str] = (),
    skip_special_tokens: bool = True,
) -> list[AnswerPart]:
    """Return what is parsed from the text. It is the same for tokens of one byte and of many."""
    tokenizer = PieceTokenizer(control)
    results = [
        parse(
            described_formats()[name],
            tokenizer,
            tokenizer.cut(text, [size]),
            tools=tools,
            reasoning=reasoning,
            skip_special_tokens=skip_special_tokens,
        )
        for size in (1, 2, 3, 7, 10_000)
    ]
    assert all(result == results[0] for result in results)
    return results[0]


@pytest.mark.parametrize(
    ("text", "reasoning", "parts"),
    [
        ("<think>\nHm.\n</think>\n\nHi", ReasoningStart.MAY_OPEN, [ReasoningPart("Hm."), ContentPart("Hi")]),
        ("Hm.\n</think>\n\nHi", ReasoningStart.OPEN, [ReasoningPart("Hm."), ContentPart("Hi")]),
        ("<think>\nHm.\n</think>Hi", ReasoningStart.OPEN, [ReasoningPart("Hm."), ContentPart("Hi")]),
        ("\n<think>\n\n</think>\n\nHi", ReasoningStart.MAY_OPEN, [ContentPart("Hi")]),
        ("  Hm.\nHm", ReasoningStart.OPEN, [ReasoningPart("  Hm.\nHm")]),
        ("\n <thin air", ReasoningStart.MAY_OPEN, [ContentPart(" <thin air")]),
        ("Say <think> now", ReasoningStart.MAY_OPEN, [ContentPart("Say <think> now")]),
        ("<think>Hm.</think>", ReasoningStart.NONE, [ContentPart("<think>Hm.</think>")]),
    ],
)
def test_reasoning_is_apart_from_the_answer(text: str, reasoning: ReasoningStart, parts: list[AnswerPart]) -> None:
    assert parsed(text, reasoning=reasoning) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CALL, CALLED),
        (f"Let me see.\n\n{CALL}\n", [ContentPart("Let me see."), *CALLED]),
        (f"<think>Hm.</think>{CALL}", [ReasoningPart("Hm."), *CALLED]),
        (f"{CALL}\n\nDone.", [*CALLED, ContentPart("Done.")]),
        (CALL.replace("\n", ""), CALLED),
        (
            f'{CALL}\n<tool_call>{{"arguments": {{"x": [1, "}}"]}}, "name": "now"}}</tool_call>',
            [*CALLED, CallBegan(1, "1", "now"), CallArguments(1, '{"x": [1, "}"]}')],
        ),
        ('<tool_call>{"name": "now"}</tool_call>', [CallBegan(0, "0", "now"), CallArguments(0, "{}")]),
        ('<tool_call>{"name": "now", "arguments": {"a": "b', [CallBegan(0, "0", "now"), CallArguments(0, '{"a": "b')]),
        (
            '<tool_call>{"name": "now", "note": 1}}</tool_call>',
            [CallBegan(0, "0", "now"), CallArguments(0, "{}"), ContentPart('"note": 1\n}')],
        ),
        ("<tool_call>\nnot JSON</tool_call>", [ContentPart("<tool_call>\nnot JSON</tool_call>")]),
        ("the <tool_call> tag", [ContentPart("the <tool_call> tag")]),
        ("1 <2 and <tool", [ContentPart("1 <2 and <tool")]),
    ],
)
def test_calls_in_json_between_tags(text: str, parts: list[AnswerPart]) -> None:
    assert parsed(text) == parts


def test_reasoning_in_channels_may_begin_again() -> None:
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>Hi"
    )
    control = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>"]
    parts = [ReasoningPart("One."), ContentPart("Wait."), ReasoningPart("Two."), ContentPart("Hi")]
    for reasoning in (ReasoningStart.MAY_OPEN, ReasoningStart.NONE):
        assert parsed(text, name="harmony", control=control, reasoning=reasoning) == parts
        assert parsed(text, name="harmony", control=control, reasoning=reasoning, tools=()) == parts


def test_calls_are_text_if_no_tools_are_offered() -> None:
    assert parsed(CALL, tools=()) == [ContentPart(CALL)]


def test_arguments_arrive_with_their_tokens() -> None:
    tokenizer = PieceTokenizer()
    parser = OutputParser(HERMES, tokenizer, reasoning=ReasoningStart.NONE, tools=TOOLS)
    pieces = [b"<tool_call>", b'{"name": "now", ', b'"arguments": ', b'{"a"', b": 1", b"}}", b"</tool_call>"]
    parts = [parser.add_token(tokenizer.id_of(piece)) for piece in pieces]
    began = parts[3][0]
    assert isinstance(began, CallBegan)
    assert parts == [
        [], [], [], [began, CallArguments(0, '{"a"')], [CallArguments(0, ": 1")], [CallArguments(0, "}")], [],
    ]  # fmt: skip


def test_a_string_with_line_breaks_becomes_valid_json() -> None:
    broken = CALL.replace("Paris", "a\nb\\d")
    (_, arguments) = parsed(broken)
    assert isinstance(arguments, CallArguments)
    assert json.loads(arguments.text) == {"city": "a\nb\\d"}


@pytest.mark.parametrize(
    ("written", "arguments", "content"),
    [
        ('{"a": 1, "b": [2, 3,],}', '{"a": 1, "b": [2, 3]}', ""),
        ('{"a": 1., "b": -2}', '{"a": 1.0, "b": -2}', ""),
        ('{"a": "\\ud83d\\ude00 \\ud83d \\ude00\\ud83d"}', '{"a": "\\ud83d\\ude00 \\ufffd \\ufffd\\ufffd"}', ""),
        ('{"a": 1, oops}', '{"a": 1', ", oops}"),
        ('{"a", "b": 1}', '{"a"', ', "b": 1}'),
        ('{"a": trouble}', '{"a": ', "trouble}"),
        ('{"a": 1 2}', '{"a": 1 ', "2}"),
        ('{"a": 007}', '{"a": 0', "07}"),
        ('{"a": +1}', '{"a": ', "+1}"),
        ('{"a": [1}', '{"a": [1', "}"),
        ('{"a": {1: 2}}', '{"a": {', "1: 2}}"),
    ],
)
def test_what_is_no_json_is_text_after_the_call(written: str, arguments: str, content: str) -> None:
    tokenizer = PieceTokenizer()
    output = f'<tool_call>{{"name": "now", "arguments": {written}'
    for size in (1, 3, 100):
        parts = parse(HERMES, tokenizer, tokenizer.cut(output, [size]), tools=TOOLS)
        assert parts[1] == CallArguments(0, arguments)
        assert parts[2:] == ([ContentPart(content)] if content else [])


def test_reasoning_tokens_are_counted_with_their_markers() -> None:
    tokenizer = PieceTokenizer()
    parser = OutputParser(HERMES, tokenizer, reasoning=ReasoningStart.MAY_OPEN)
    for piece in (b"<th", b"ink>", b"Hm", b".", b"</", b"think>", b"Hi"):
        parser.add_token(tokenizer.id_of(piece))
    assert parser.num_reasoning_tokens == 6


def test_a_marker_that_is_a_control_token_is_text_if_it_is_typed() -> None:
    tokenizer = PieceTokenizer(["[TOOL_CALLS]"])
    mistral = described_formats()["mistral"]
    call = '[{"name": "now", "arguments": {}}]'
    typed = [tokenizer.id_of(b"[TOOL_CALLS]"), *tokenizer.cut(call)]
    assert parse(mistral, tokenizer, typed, tools=TOOLS) == [ContentPart(f"[TOOL_CALLS]{call}")]
    written = tokenizer.cut(f"[TOOL_CALLS]{call}")
    assert parse(mistral, tokenizer, written, tools=TOOLS) == [CallBegan(0, "0", "now"), CallArguments(0, "{}")]


def test_special_tokens_in_text_follow_the_request() -> None:
    assert parsed("a<eos>b", control=["<eos>"]) == [ContentPart("ab")]
    assert parsed("a<eos>b", control=["<eos>"], skip_special_tokens=False) == [ContentPart("a<eos>b")]
    wrong = "[TOOL_CALLS]no call"
    assert parsed(wrong, name="mistral", control=["[TOOL_CALLS]"]) == [ContentPart("no call")]
    whole = parsed(wrong, name="mistral", control=["[TOOL_CALLS]"], skip_special_tokens=False)
    assert whole == [ContentPart(wrong)]


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parents[4] / "docs" / "output-formats.md").read_text(encoding="utf-8")
    described = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    output = page.split("```toml\n")[1].split("```\n", 2)[2].split("```")[0]
    tokenizer = PieceTokenizer()
    parts = parse(read_format("example", described), tokenizer, tokenizer.cut(output, [4]), tools=TOOLS)
    assert parts == [
        ReasoningPart("Which days?"),
        CallBegan(0, "0", "get_weather"),
        CallArguments(0, '{"city": "Lima", "days": 3}'),
    ]
