"""Tests of the conversion of Anthropic's messages into OpenAI's form."""

from typing import Any

import pytest

from gateway.anthropic.conversation import conversation_messages
from gateway.anthropic.schemas import CountTokensRequest


def converted(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    return conversation_messages(CountTokensRequest.parse_body({"messages": list(messages), **fields}))


def user(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "user", "content": [_block(block) for block in blocks]}


def assistant(*blocks: dict[str, Any] | str) -> dict[str, Any]:
    return {"role": "assistant", "content": [_block(block) for block in blocks]}


def _block(block: dict[str, Any] | str) -> dict[str, Any]:
    return {"type": "text", "text": block} if isinstance(block, str) else block


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "weather", "input": arguments}


def result(call_id: str, content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def call(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_a_turn_with_tools() -> None:
    thinking = {"type": "thinking", "thinking": "Two cities.", "signature": "xyz"}
    messages = converted(
        user("Where is it warmer?"),
        assistant(thinking, "I will ", "look.", use("toolu_1", city="Lima"), use("toolu_2", city="Oslo")),
        user(result("toolu_1", "20 °C"), result("toolu_2", [{"type": "text", "text": "a"}, _block("b")]), "Be brief."),
    )
    assert messages == [
        {"role": "user", "content": "Where is it warmer?"},
        {
            "role": "assistant",
            "content": "I will look.",
            "reasoning_content": "Two cities.",
            "tool_calls": [call("toolu_1", city="Lima"), call("toolu_2", city="Oslo")],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "20 °C"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "a\nb"},
        {"role": "user", "content": "Be brief."},
    ]


@pytest.mark.parametrize(
    ("content", "fields", "expected"),
    [
        ("no such city", {"is_error": True}, "Error: no such city"),
        ("Error: no such city", {"is_error": True}, "Error: no such city"),
        ("no such city", {"is_error": False}, "no such city"),
        (None, {}, ""),
        (None, {"is_error": True}, "Error: "),
    ],
)
def test_the_result_of_a_tool(content: Any, fields: dict[str, Any], expected: str) -> None:
    messages = converted(user("a"), assistant(use("t")), user(result("t", content, **fields)))
    assert messages[-1] == {"role": "tool", "tool_call_id": "t", "content": expected}


def test_messages_of_one_role_are_one_message() -> None:
    messages = converted(user("a", "b"), user("c"), assistant("d", "e"), assistant(use("t")), assistant("f"))
    assert messages == [
        {"role": "user", "content": "a\nb\nc"},
        {"role": "assistant", "content": "de\nf", "tool_calls": [call("t")]},
    ]


def test_redacted_thinking_is_left_out() -> None:
    redacted = {"type": "redacted_thinking", "data": "AAAA"}
    assert converted(user("a"), assistant(redacted, "b"))[-1] == {"role": "assistant", "content": "b"}


def test_a_message_of_the_system_stays_at_its_place() -> None:
    messages = converted(user("a"), {"role": "system", "content": "Be brief."}, system="You are an agent.")
    assert [message["role"] for message in messages] == ["system", "user", "system"]


HEADER = "x-anthropic-billing-header: cc_version=2.1.3; cc_entrypoint=cli; cch=f1a2;"


@pytest.mark.parametrize(
    "system",
    [
        f"{HEADER}\nYou are an agent.\nBe brief.",
        [_block(HEADER), _block("You are an agent."), _block("Be brief.")],
        [_block("You are an agent."), _block(HEADER), _block("Be brief.")],
        [_block(f"You are an agent.\n{HEADER}\nBe brief.")],
    ],
)
def test_the_billing_line_is_left_out(system: Any) -> None:
    assert converted(user("a"), system=system)[0] == {"role": "system", "content": "You are an agent.\nBe brief."}


def test_other_mentions_of_the_header_stay() -> None:
    text = "Explain x-anthropic-billing-header: what is it?"
    assert converted(user("a"), system=text)[0]["content"] == text
    assert converted(user(HEADER))[0]["content"] == HEADER


def test_a_system_prompt_of_the_billing_line_alone_is_none() -> None:
    assert [message["role"] for message in converted(user("a"), system=[_block(HEADER)])] == ["user"]
