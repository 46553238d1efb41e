"""Tests of outputs that the tests and issues of public projects have. Each file in examples/ has those of one format."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gateway.parsing.output_parser import OutputParser
from gateway.parsing.parts import CallArguments, CallBegan, ContentPart, ReasoningPart
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import Slot, described_formats
from tests.fakes.output_tokens import PieceTokenizer

FILES = sorted((Path(__file__).parent / "examples").glob("*.toml"))
EXAMPLES = [(file.stem, each) for file in FILES for each in tomllib.loads(file.read_text(encoding="utf-8"))["example"]]
FORMATS = described_formats()


def control_names(name: str) -> list[str]:
    """Return the texts of a format that look like control tokens."""
    output_format = FORMATS[name]
    texts = list(output_format.answer_markers)
    if output_format.reasoning:
        texts += [output_format.reasoning.open, output_format.reasoning.close]
    for calls in (output_format.calls, *output_format.other_calls):
        if calls is not None:
            texts += [piece for piece in (*calls.begin, *calls.call, *calls.end) if not isinstance(piece, Slot)]
    return [text.strip() for text in texts if text.strip()[:2] in ("<|", "<｜", "[T", "[A", "[C") and len(text) < 32]


def tools_of(example: dict[str, Any]) -> list[Tool]:
    types: dict[str, dict[str, str]] = example.get("types", {})
    names = {call["name"] for call in example.get("calls", ())} | set(example.get("offered", ()))
    schemas = {
        name: {"type": "object", "properties": {key: {"type": each} for key, each in types.get(name, {}).items()}}
        for name in names
    }
    return [Tool(name=name, parameters=schema) for name, schema in schemas.items()] or [Tool(name="other")]


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize(
    ("name", "example"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else value["source"]
)
def test_an_output_of_a_public_project(name: str, example: dict[str, Any], size: int) -> None:
    output = example["output"].removeprefix("\n")
    shown: list[tuple[str, list[Any], str]] = []
    for tokenizer in (PieceTokenizer(), PieceTokenizer(control_names(name))):
        parser = OutputParser(FORMATS[name], tokenizer, reasoning=ReasoningStart.MAY_OPEN, tools=tools_of(example))
        parts = [part for token_id in tokenizer.cut(output, [size]) for part in parser.add_token(token_id)]
        parts += parser.finish()
        calls: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, CallBegan):
                calls.append({"name": part.name, "arguments": "", "id": part.id})
            elif isinstance(part, CallArguments):
                calls[-1]["arguments"] += part.text
        reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningPart))
        content = "".join(part.text for part in parts if isinstance(part, ContentPart)).rstrip()
        shown.append((reasoning, calls, content))
    (reasoning, calls, content), (_, same_calls, _) = shown
    assert reasoning == example.get("reasoning", "")
    assert content == example.get("content", "")
    for found in (calls, same_calls):
        read = [{**call, "arguments": json.loads(call["arguments"])} for call in found]
        expected = [{"id": call["id"], **wanted} for call, wanted in zip(found, example.get("calls", ()), strict=True)]
        assert read == expected


def test_each_format_has_three_examples() -> None:
    counts = {file.stem: sum(name == file.stem for name, _ in EXAMPLES) for file in FILES}
    assert all(count >= 3 for count in counts.values()), counts
    assert {name for name, each in FORMATS.items() if each.marks} == set(counts)
