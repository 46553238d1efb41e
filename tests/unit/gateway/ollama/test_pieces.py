"""Tests of the pieces of an answer: calls are whole, in order, and nothing that a model wrote is lost."""

from collections.abc import Sequence
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.ollama.pieces import AnswerPieces, Call, Piece, joined
from gateway.parsing.parts import AnswerPart, CallArguments, CallBegan, ContentPart, ReasoningPart

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=8), JSON, max_size=4)
ANSWERS = st.lists(
    st.builds(ContentPart, st.text(min_size=1, max_size=5)) | st.builds(ReasoningPart, st.text(max_size=5)) | ARGUMENTS,
    max_size=8,
)


def pieces_of(groups: Sequence[Sequence[AnswerPart]]) -> list[Piece]:
    answer = AnswerPieces()
    return [*(answer.add_parts(group) for group in groups), answer.finish()]


@given(answer=ANSWERS, data=st.data())
def test_calls_are_whole_however_their_parts_arrive(answer: list[Any], data: st.DataObject) -> None:
    parts: list[AnswerPart] = []
    expected: list[Call] = []
    for each in answer:
        if not isinstance(each, dict):
            parts.append(each)
            continue
        index, text = len(expected), orjson.dumps(each).decode()
        cut = data.draw(st.integers(0, len(text)))
        parts += [
            CallBegan(index, f"call_{index}", f"f{index}"),
            CallArguments(index, text[:cut]),
            CallArguments(index, text[cut:]),
        ]
        expected.append(Call(index=index, id=f"call_{index}", name=f"f{index}", arguments=each))
    ends = sorted(data.draw(st.lists(st.integers(0, len(parts)), max_size=4)))
    groups = [parts[start:end] for start, end in zip([0, *ends], [*ends, len(parts)], strict=True)]
    whole = joined(pieces_of(groups))
    assert list(whole.calls) == expected
    assert whole.content == "".join(part.text for part in parts if isinstance(part, ContentPart))
    assert whole.thinking == "".join(part.text for part in parts if isinstance(part, ReasoningPart))


def test_a_call_is_complete_when_the_next_part_comes() -> None:
    first: list[AnswerPart] = [CallBegan(0, "call_0", "f"), CallArguments(0, '{"a": 1}')]
    pieces = pieces_of([first, [CallBegan(1, "call_1", "g")], [ContentPart("x")]])
    assert [len(piece.calls) for piece in pieces] == [0, 1, 1, 0]
    assert pieces[2].content == "x"


def test_arguments_that_were_cut_off_are_text() -> None:
    cut = pieces_of([[CallBegan(0, "call_0", 'f"'), CallArguments(0, '{"city": "Li')]])
    assert joined(cut) == Piece(content='{"name": "f\\"", "arguments": {"city": "Li')


def test_a_call_without_arguments() -> None:
    (_, piece) = pieces_of([[CallBegan(0, "call_0", "now")]])
    assert piece.calls == (Call(index=0, id="call_0", name="now", arguments={}),)
