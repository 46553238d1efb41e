"""Tests of tools in plain messages."""

from typing import Any

import orjson
import pytest

from gateway.chat.described_tools import in_plain_messages, write_calls
from gateway.chat.history import template_messages
from gateway.chat.tool_definitions import read_tools
from pagoda.models.output_formats.description import CallSyntax, Slot

SYNTAX = CallSyntax(call=("<tool_call>\n", Slot.OBJECT, "\n</tool_call>"), separator="\n")
TOOLS = read_tools([{"type": "function", "function": {"name": "now", "description": "Time"}}])
USER = {"role": "user", "content": "What time is it?"}
CALLED = {
    "role": "assistant",
    "content": "Wait.",
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "now", "arguments": '{"zone": "Zürich"}'}},
        {"id": "b", "type": "function", "function": {"name": "now", "arguments": "oops"}},
    ],
}
RESULTS = [{"role": "tool", "tool_call_id": each, "content": f"{each}!"} for each in "ab"]


def plain(*messages: Any, tools: Any = TOOLS) -> list[Any]:
    return list(in_plain_messages(template_messages(messages), tools, SYNTAX))


def test_the_system_message_describes_the_tools() -> None:
    system, user = plain({"role": "system", "content": "Be brief."}, USER)
    assert user == USER and system["content"].startswith("Be brief.\n\n")
    listed = system["content"].partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert [orjson.loads(line) for line in listed.split("\n")] == [tool.given["function"] for tool in TOOLS]
    assert "<tool_call>\n{" in system["content"]


def test_a_conversation_without_system_message_gets_one() -> None:
    assert [each["role"] for each in plain(USER)] == ["system", "user"]


def test_the_first_question_describes_the_tools_if_no_system_message_may() -> None:
    (user,) = in_plain_messages([USER], TOOLS, SYNTAX, may_add_system=False)
    assert user["role"] == "user" and user["content"].startswith("You can call functions.")
    assert user["content"].endswith(f"\n\n{USER['content']}")


def test_calls_and_results_become_text_and_roles_alternate() -> None:
    _, user, called, results, answer = plain(USER, CALLED, *RESULTS, {"role": "assistant", "content": "Noon."})
    assert user == USER and answer["content"] == "Noon."
    assert called == {
        "role": "assistant",
        "content": 'Wait.\n<tool_call>\n{"name": "now", "arguments": {"zone": "Zürich"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": "oops"}\n</tool_call>',
    }
    expected = "<tool_response>\na!\n</tool_response>\n<tool_response>\nb!\n</tool_response>"
    assert results == {"role": "user", "content": expected}


def test_a_conversation_without_tools_stays_as_it_is() -> None:
    assert plain(USER, tools=()) == [USER]


def test_an_earlier_turn_stays_the_beginning_of_a_later_one() -> None:
    first = plain(USER, CALLED, *RESULTS)
    assert plain(USER, CALLED, *RESULTS, {"role": "assistant", "content": "Noon."}, USER)[: len(first)] == first


OBJECT = '{"name": "f", "arguments": {}}'
NAMED = CallSyntax(call=("@", Slot.NAME, ":", Slot.ARGUMENTS), begin=("<",), separator=",", end=(">",))
OTHER_KEY = CallSyntax(call=(Slot.OBJECT,), arguments_key="parameters", separator=" ")


@pytest.mark.parametrize(
    ("syntax", "written"),
    [
        (NAMED, "<@f:{},@f:{}>"),
        (OTHER_KEY, " ".join(2 * [OBJECT.replace("arguments", "parameters")])),
    ],
)
def test_calls_are_written_as_the_syntax_says(syntax: CallSyntax, written: str) -> None:
    assert write_calls([("f", {}), ("f", {})], syntax) == written
