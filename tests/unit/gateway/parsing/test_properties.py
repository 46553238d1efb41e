"""Properties of the parser for any output of any format.

Joined, the parts do not depend on how the output is cut into tokens. Nothing is lost: each word of the output is in one part, once.
No output raises an error.
"""

import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from gateway.parsing.output_parser import OutputParser
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import CallSyntax, OutputFormat, Slot, described_formats
from tests.fakes.output_tokens import PieceTokenizer, joined, parse

FORMATS = described_formats()
TOOLS = (
    Tool(name="f", parameters={"properties": {"text": {"type": "string"}, "number": {"type": "integer"}}}),
    Tool(name="g"),
)
WORD = re.compile("word[0-9]+x")
STARTS = st.sampled_from(ReasoningStart)


def syntaxes(output_format: OutputFormat) -> list[CallSyntax]:
    return [output_format.calls, *output_format.other_calls] if output_format.calls else []


def texts(output_format: OutputFormat) -> list[str]:
    """Return all texts of the format."""
    reasoning = output_format.reasoning
    found = [*output_format.answer_markers, *((reasoning.open, reasoning.close) if reasoning else ())]
    for calls in syntaxes(output_format):
        pieces = (*calls.begin, *calls.call, calls.separator, *calls.end, *calls.parameter, calls.quote)
        found += [piece for piece in pieces if piece and not isinstance(piece, Slot)]
    return found


def good_calls(output_format: OutputFormat) -> list[str]:
    """Return a call in each way of the format, with `WORD` in place of what differs."""
    values = {
        Slot.NAME: "f",
        Slot.ARGUMENTS: '{"text": "WORD", "n": [1, {"a": null}]}',
        Slot.PYTHON_ARGUMENTS: "text='WORD', number=4, c=[True, \"WORD\"]",
        Slot.INDEX: "0",
        Slot.KEY: "text",
        Slot.VALUE: "WORD <b> WORD",
        Slot.IS_STRING: "true",
    }
    calls: list[str] = []
    for syntax in syntaxes(output_format):
        keys = (syntax.name_key, syntax.arguments_key)
        values[Slot.OBJECT] = f'{{"{keys[0]}": "f", "{keys[1]}": {{"text": "WORD \\" \\\\n", "WORD": 1}}}}'
        values[Slot.BRACED] = (
            f"{{text:{syntax.quote}WORD{syntax.quote},list:[1,{{a:{syntax.quote}WORD{syntax.quote}}}]}}"
        )
        one = "".join(values.get(piece, piece) if isinstance(piece, Slot) else piece for piece in syntax.parameter)
        values[Slot.PARAMETERS] = one
        call = "".join(values[piece] if isinstance(piece, Slot) else piece for piece in syntax.call)
        calls.append("".join((*syntax.begin, call, syntax.separator, call, *syntax.end)))
    return calls


JSON_BITS = [
    '{"name": "f", ',
    '"arguments": {',
    '"parameters": ',
    '"f"',
    '"',
    "\\",
    "}",
    "}}",
    "[",
    "]",
    ",",
    ":",
    "{",
    "'",
    "null",
    "NaN",
    "-1.",
    "007",
    "\\ud83d",
]
OTHER_BITS = ["\n", " ", "<", "f", "f(", "a=", ")", "é", "\N{GRINNING FACE}", "text", "4", "true", "=", "(", ";"]


@st.composite
def edited(draw: st.DrawFn, text: str, bits: list[str]) -> str:
    """Draw the text with some parts cut out, and other parts put in."""
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.sampled_from(bits) | st.sampled_from(["", "WORD"])) + text[end:]
    return text


@st.composite
def outputs(draw: st.DrawFn) -> tuple[OutputFormat, str]:
    """Draw a format, and an output of its texts, parts of them, calls and words, in any order."""
    output_format = draw(st.sampled_from(list(FORMATS.values())))
    markers = texts(output_format)
    bits = [*JSON_BITS, *OTHER_BITS, *markers, *(marker[: len(marker) // 2] for marker in markers)]
    parts = [
        *good_calls(output_format),
        "".join(draw(st.lists(st.sampled_from([*bits, "WORD", " WORD "]), max_size=6))),
    ]
    drawn = "".join(draw(edited(draw(st.sampled_from(parts)), bits)) for _ in range(draw(st.integers(1, 4))))
    number = count()
    return output_format, re.sub("WORD", lambda _: f"word{next(number)}x", drawn)


def control_tokens(data: st.DataObject, output_format: OutputFormat) -> list[str]:
    """Draw which texts of the format are control tokens."""
    names = [text.strip() for text in texts(output_format) if len(text.strip()) > 3]
    return data.draw(st.lists(st.sampled_from(names), unique=True, max_size=6)) if names else []


def words(parts: list[AnswerPart]) -> list[str]:
    # A word may end in another part than it begins in, such as a word in the midst of JSON.
    shown = "".join(part.name if isinstance(part, CallBegan) else part.text for part in parts)
    return sorted(WORD.findall(shown))


@settings(max_examples=300)
@given(data=st.data())
def test_the_cut_makes_no_difference_and_no_word_is_lost(data: st.DataObject) -> None:
    output_format, output = data.draw(outputs())
    tokenizer = PieceTokenizer(control_tokens(data, output_format))
    start = data.draw(STARTS)
    tools = data.draw(st.sampled_from([TOOLS, ()]))
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    whole = parse(output_format, tokenizer, tokenizer.cut(output, [10_000]), tools=tools, reasoning=start)
    for cut in (sizes, [1], [3]):
        assert parse(output_format, tokenizer, tokenizer.cut(output, cut), tools=tools, reasoning=start) == whole
    assert words(whole) == sorted(WORD.findall(output))


@given(data=st.data(), pieces=st.lists(st.binary(min_size=1, max_size=6), max_size=20))
def test_any_bytes_are_parsed(data: st.DataObject, pieces: list[bytes]) -> None:
    output_format, output = data.draw(outputs())
    tokenizer = PieceTokenizer()
    ids = [tokenizer.id_of(piece) for piece in pieces] + tokenizer.cut(output, [4])
    ids = data.draw(st.permutations(ids))
    parser = OutputParser(output_format, tokenizer, reasoning=data.draw(STARTS), tools=TOOLS)
    parts = [part for token_id in ids for part in parser.add_token(token_id)] + parser.finish()
    for part in parts:
        (part.name if isinstance(part, CallBegan) else part.text).encode()
    begun = [part for part in parts if isinstance(part, CallBegan)]
    assert [part.index for part in begun] == list(range(len(begun)))
    assert len({part.id for part in begun}) == len(begun)
    assert all(isinstance(part, CallBegan) or part.text for part in parts)


@settings(max_examples=300)
@given(data=st.data())
def test_arguments_are_always_the_beginning_of_json(data: st.DataObject) -> None:
    output_format, output = data.draw(outputs())
    tokenizer = PieceTokenizer(control_tokens(data, output_format))
    output = output[: data.draw(st.integers(0, len(output)))]
    for part in parse(output_format, tokenizer, tokenizer.cut(output, [4]), tools=TOOLS, reasoning=data.draw(STARTS)):
        if isinstance(part, CallArguments):
            # Clients read the arguments of a stream while they arrive.
            assert isinstance(from_json(part.text, allow_partial=True), dict), part.text


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if each.calls])
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=40))
def test_good_calls_are_found_however_they_are_cut(name: str, sizes: list[int]) -> None:
    tokenizer = PieceTokenizer()
    for output in good_calls(FORMATS[name]):
        parts = parse(FORMATS[name], tokenizer, tokenizer.cut(output.replace("WORD", "w"), sizes), tools=TOOLS)
        assert [type(part) for part in parts] == [CallBegan, CallArguments] * 2


def test_joined_neighbours_stay_in_order() -> None:
    parts: list[AnswerPart] = [CallBegan(0, "x", "f"), CallArguments(0, "{"), CallArguments(0, "}")]
    assert joined(parts) == [CallBegan(0, "0", "f"), CallArguments(0, "{}")]
