"""Tests of the conversion of messages with calls and results into those that templates read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat.history import template_messages


def call(arguments: Any, call_id: str | None = "c1", name: str = "weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def called(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": "Zürich"}', {"city": "Zürich"}),
        ({"city": "Zürich"}, {"city": "Zürich"}),
        ("", {}),
        (None, {}),
        ("{oops", "{oops"),
        ("[1]", "[1]"),
    ],
)
def test_arguments_become_an_object_if_they_are_one(arguments: Any, expected: Any) -> None:
    (message,) = template_messages([called(call(arguments))])
    assert message == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": expected}}],
    }


def test_a_result_gets_the_name_of_its_call() -> None:
    calls = called(call("{}", "x", "now"), call("{}", "y"))
    results = [{"role": "tool", "content": "1", "tool_call_id": "y"}, {"role": "tool", "content": "2"}]
    _, first, second = template_messages([calls, *results])
    assert first == {"role": "tool", "content": "1", "tool_call_id": "y", "name": "weather"}
    assert second == {"role": "tool", "content": "2", "tool_call_id": "x", "name": "now"}


def test_a_result_of_no_known_call_is_kept() -> None:
    (result,) = template_messages([{"role": "tool", "content": "1", "tool_call_id": "cut"}])
    assert result == {"role": "tool", "content": "1", "tool_call_id": "cut", "name": ""}


def test_calls_without_ids_are_matched_by_name_and_order() -> None:
    calls = called(call({}, None, "a"), call({}, None, "b"), call({}, None, "a"))
    results = [{"role": "tool", "content": name, "name": name} for name in ("b", "a", "a")]
    first, *others = template_messages([calls, *results])
    assert [each["id"] for each in first["tool_calls"]] == ["call_0", "call_1", "call_2"]
    assert [each["tool_call_id"] for each in others] == ["call_1", "call_0", "call_2"]


def test_reasoning_is_kept() -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "hm"}
    assert template_messages([message]) == [message]


def test_empty_fields_are_left_out() -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "4",
        "tool_calls": [],
        "reasoning_content": "",
        "refusal": None,
    }
    assert template_messages([message]) == [{"role": "assistant", "content": "4"}]


@given(ids=st.lists(st.text(max_size=20), min_size=1, max_size=5, unique=True))
def test_foreign_ids_get_the_length_that_a_template_demands(ids: list[str]) -> None:
    calls = called(*(call("{}", each) for each in ids))
    results = [{"role": "tool", "content": "", "tool_call_id": each} for each in ids if each]
    first, *others = template_messages([calls, *results], id_length=9)
    fitted = [each["id"] for each in first["tool_calls"]]
    assert all(len(each) == 9 and each.isascii() and each.isalnum() for each in fitted)
    assert [each["tool_call_id"] for each in others] == [each for each, given in zip(fitted, ids, strict=True) if given]
    assert template_messages([calls], id_length=9)[0]["tool_calls"] == first["tool_calls"]


def test_an_id_that_fits_is_kept() -> None:
    (message,) = template_messages([called(call("{}", "aB3456789"))], id_length=9)
    assert message["tool_calls"][0]["id"] == "aB3456789"
