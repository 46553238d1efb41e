"""A client's ask of a chat, the same for all APIs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from gateway.constraints.text_rule import TextRule
from gateway.prompts.conversation import ChatEnding
from gateway.prompts.tools import Tool, ToolChoice


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsk:
    """A conversation, and the form of its answer. The messages are those that history.py reads."""

    messages: Sequence[Mapping[str, Any]]
    ending: ChatEnding = ChatEnding.BEGUN
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    text: TextRule | None = None
    """Rule for the text of the answer; None if it is free."""
    thinks: bool | None = None
    """True if the model thinks before it answers; None leaves it to the template."""
    effort: str | None = None
    """The effort of the model's thinking: `minimal`, `low`, `medium`, `high` and so on, for templates that read it."""
    thinking_budget: int | None = None
    """Maximum number of tokens of the reasoning."""
    documents: Sequence[Mapping[str, Any]] = ()
    template_variables: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The client's own variables for the template (`chat_template_kwargs`)."""
