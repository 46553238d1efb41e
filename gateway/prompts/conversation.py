"""A conversation to render with a chat template: its messages, its ending, and whether the model thinks first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class ChatEnding(Enum):
    """The end of a conversation when it is rendered as a prompt."""

    BEGUN = "the beginning of an answer"
    AS_IS = "its final message"
    CONTINUED = "its final message, which the model continues"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation to render as a prompt."""

    messages: Sequence[Mapping[str, Any]]
    ending: ChatEnding = ChatEnding.BEGUN
    thinks: bool | None = None
    """True if the model thinks before it answers; None leaves it to the template."""
