"""A conversation to render with a chat template: its messages, its ending, its tools, and whether the model thinks first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any

from gateway.prompts.tools import Tool


class ChatEnding(Enum):
    """The end of a conversation when it is rendered as a prompt."""

    BEGUN = "the beginning of an answer"
    AS_IS = "its final message"
    CONTINUED = "its final message, which the model continues"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation to render as a prompt.

    Messages have the form of Hugging Face's templates: `role` and `content`, a text. An assistant's message may have
    `reasoning_content`, and `tool_calls`: [{"id": …, "type": "function", "function": {"name": …, "arguments": {…}}}], with
    arguments as an object. The answer of a tool has the role `tool`, `tool_call_id` and `name`.
    """

    messages: Sequence[Mapping[str, Any]]
    ending: ChatEnding = ChatEnding.BEGUN
    thinks: bool | None = None
    """True if the model thinks before it answers; None leaves it to the template."""
    tools: Sequence[Tool] = ()
    """The tools that the prompt describes."""
    documents: Sequence[Mapping[str, Any]] = ()
    """Documents for templates with retrieval."""
    variables: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Further variables of the template, such as `reasoning_effort`."""
