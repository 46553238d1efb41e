"""The parts of a chat's request body in Ollama's API: messages with tool calls, tools, and the form of the answer."""

from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gateway.http.fields import MAX_MESSAGES, described
from gateway.http.schema import Schema

MAX_CALLS = 1024
"""Maximum number of calls in a message."""

Format = Annotated[
    Literal["", "json"] | dict[str, Any],
    described('"json" or a JSON Schema as an object'),
]
Think = Annotated[
    bool | Literal["low", "medium", "high", "max"],
    described('true, false, "low", "medium", "high" or "max"'),
]
Tools = Annotated[list[dict[str, Any]], Field(fail_fast=True)]
"""Tools as objects; gateway/chat/tool_definitions.py checks them."""


class OllamaCalledFunction(Schema):
    """The function of a call, and its arguments."""

    # The calls of a message are in their order.
    hints = frozenset({"index"})

    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[dict[str, Any], described("an object: the arguments by name, not a string")] = Field(
        default_factory=dict
    )


class OllamaToolCall(Schema):
    """A call that the model has made."""

    hints = frozenset({"type"})

    id: str = ""
    function: OllamaCalledFunction


def _lower(role: Any) -> Any:
    return role.lower() if isinstance(role, str) else role


class OllamaMessage(Schema):
    """A message of a conversation."""

    neutral = MappingProxyType({"images": ([],)})

    role: Annotated[Literal["system", "user", "assistant", "tool"], BeforeValidator(_lower)]
    content: str = ""
    thinking: str = ""
    """The reasoning before an assistant's answer."""
    tool_calls: Annotated[list[OllamaToolCall], Field(max_length=MAX_CALLS, fail_fast=True)] | None = None
    """The calls of an assistant's message."""
    tool_name: str = ""
    """The tool whose answer a message of the role `tool` is. Default: that of the call with `tool_call_id`, else of the first
    call without an answer."""
    tool_call_id: str = ""
    """The call that a message of the role `tool` answers."""


class OpeningMessage(Schema):
    """A message that precedes each conversation with a model."""

    neutral = MappingProxyType(
        {"images": ([],), "thinking": ("",), "tool_call_id": ("",), "tool_calls": ([],), "tool_name": ("",)}
    )

    role: Annotated[Literal["system", "user", "assistant"], BeforeValidator(_lower)]
    content: str = ""


Messages = Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, fail_fast=True)]
