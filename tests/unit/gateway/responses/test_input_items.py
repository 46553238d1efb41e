"""Tests of the way from a response's input to the messages of a conversation."""

from typing import Any

import pytest

from gateway.errors import InvalidRequestError
from gateway.responses.input_items import check_results, complete_items, messages_of
from gateway.responses.schemas import ResponseRequest

RESPONSE = "resp_" + "0" * 32


def items_of(given: Any) -> list[dict[str, Any]]:
    return complete_items(ResponseRequest.parse_body({"input": given}).input, RESPONSE, lambda item_id: {})


def call(number: int) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": "f", "arguments": f'{{"n": {number}}}'}


def result(number: int) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": f"{number}"}


def reasoning(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}


def called(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{number}", "type": "function", "function": {"name": "f", "arguments": f'{{"n": {number}}}'}}
        for number in numbers
    ]


def answered(number: int) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": f"{number}"}


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}]),
        ([{"role": "developer", "content": "S"}], [{"role": "system", "content": "S"}]),
        (
            [reasoning("Hm."), assistant("Well."), call(1), call(2), result(1), result(2)],
            [
                {"role": "assistant", "reasoning_content": "Hm.", "content": "Well.", "tool_calls": called(1, 2)},
                answered(1),
                answered(2),
            ],
        ),
        # A call and a text that follow each other are one turn, because some templates demand that roles alternate.
        ([call(1), assistant("Done.")], [{"role": "assistant", "content": "Done.", "tool_calls": called(1)}]),
        (
            [assistant("One."), assistant("Two.")],
            [{"role": "assistant", "content": "One."}, {"role": "assistant", "content": "Two."}],
        ),
        (
            [reasoning("A."), call(1), result(1), reasoning("B."), call(2)],
            [
                {"role": "assistant", "reasoning_content": "A.", "tool_calls": called(1)},
                answered(1),
                {"role": "assistant", "reasoning_content": "B.", "tool_calls": called(2)},
            ],
        ),
        (
            [assistant("One."), reasoning("Then.")],
            [{"role": "assistant", "content": "One."}, {"role": "assistant", "reasoning_content": "Then."}],
        ),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Short."}]}],
            [{"role": "assistant", "reasoning_content": "Short."}],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [{"role": "assistant", "content": "No."}],
        ),
    ],
)
def test_items_become_messages(given: Any, messages: list[dict[str, Any]]) -> None:
    assert messages_of(items_of(given), None) == messages


def test_instructions_come_first() -> None:
    assert messages_of(items_of("Hi"), "Be brief.")[0] == {"role": "system", "content": "Be brief."}


def test_ids_name_the_response_unless_the_client_sent_one() -> None:
    first, second = items_of([{"role": "user", "content": "Hi"}, {**call(1), "id": "fc_mine"}])
    assert first["id"] == f"msg_{'0' * 32}i0" and second["id"] == "fc_mine"


def test_a_result_needs_a_call_before_it() -> None:
    check_results(items_of([call(1), result(1)]), 0)
    with pytest.raises(InvalidRequestError, match=r"^input\.1\.call_id: .*'call_2'"):
        check_results(items_of([call(1), result(2)]), 0)
    with pytest.raises(InvalidRequestError, match=r"^input\.0\.call_id"):
        check_results(items_of([call(1), result(2)]), 1)
