"""Tests of the conversion of OpenAI's messages into those of a chat's ask."""

from typing import Any

import pytest

from gateway.openai.chat_messages import ChatMessage


def asked(**fields: Any) -> dict[str, Any]:
    return ChatMessage.model_validate(fields).as_asked()


@pytest.mark.parametrize(
    ("message", "role"),
    [
        ({"role": "developer", "content": "s"}, "system"),
        ({"role": "function", "name": "f", "content": "1"}, "tool"),
        ({"role": "user", "content": "u"}, "user"),
    ],
)
def test_roles_have_one_name(message: dict[str, Any], role: str) -> None:
    assert asked(**message)["role"] == role


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_has_one_name(key: str) -> None:
    assert asked(role="assistant", content="4", **{key: "hm"})["reasoning_content"] == "hm"


def test_parts_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert asked(role="user", content=parts)["content"] == "a\nb"
