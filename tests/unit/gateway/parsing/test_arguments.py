"""Property of the parser: arguments that are written as a format says are read back as they were, however they are cut."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.parsing.parts import CallArguments, CallBegan
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, Piece, Slot, described_formats
from tests.fakes.output_tokens import PieceTokenizer, parse

FORMATS = {name: each for name, each in described_formats().items() if each.calls}
CHARACTERS = st.characters(exclude_categories=["Cs", "Co", "Cn"])
TEXTS = st.text(CHARACTERS, max_size=12) | st.sampled_from(
    ["", '"', "\\", "\\n", "\n", "null", "4", "true", "'", "<b>", "}"]
)
KEYS = st.from_regex("[a-z_][a-z0-9_]{0,8}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(KEYS, VALUES, max_size=4)
TYPES = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def schema_of(arguments: dict[str, Any]) -> dict[str, Any]:
    properties = {key: {"type": TYPES[type(value)]} for key, value in arguments.items()}
    return {"type": "object", "properties": properties}


def in_braces(value: Any, quote: str) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{key}:{in_braces(each, quote)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ",".join(in_braces(each, quote) for each in value) + "]"
        case str():
            return f"{quote}{value}{quote}"
    return json.dumps(value)


def written(syntax: CallSyntax, arguments: dict[str, Any]) -> str:
    """Return one call as a model writes it."""
    values: dict[Piece, str] = {
        Slot.NAME: "tool",
        Slot.INDEX: "0",
        Slot.ARGUMENTS: json.dumps(arguments, ensure_ascii=False),
        Slot.OBJECT: json.dumps({syntax.name_key: "tool", syntax.arguments_key: arguments}),
        Slot.PYTHON_ARGUMENTS: ", ".join(f"{key}={value!r}" for key, value in arguments.items()),
        Slot.BRACED: in_braces(arguments, syntax.quote),
        Slot.PARAMETERS: "".join(parameter(syntax, key, value) for key, value in arguments.items()),
    }
    return "".join((*syntax.begin, *(values.get(piece, piece) for piece in syntax.call), *syntax.end))


def parameter(syntax: CallSyntax, key: str, value: Any) -> str:
    is_text = isinstance(value, str)
    text = value if is_text else json.dumps(value)
    values: dict[Piece, str] = {Slot.KEY: key, Slot.VALUE: text, Slot.IS_STRING: "true" if is_text else "false"}
    return "".join(values.get(piece, piece) for piece in syntax.parameter)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25)
@given(arguments=ARGUMENTS, sizes=st.lists(st.integers(1, 6), min_size=1, max_size=20))
def test_arguments_are_read_back(name: str, arguments: dict[str, Any], sizes: list[int]) -> None:
    syntax = FORMATS[name].calls
    assert syntax is not None
    tools = [Tool(name="tool", parameters=schema_of(arguments))]
    tokenizer = PieceTokenizer()
    parts = parse(FORMATS[name], tokenizer, tokenizer.cut(written(syntax, arguments), sizes), tools=tools)
    assert [type(part) for part in parts] == [CallBegan, CallArguments]
    assert isinstance(parts[1], CallArguments)
    assert json.loads(parts[1].text) == arguments
