"""A conversation as a chat template is to write it: its messages, what they end with, and whether the model is to think."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class ChatEnding(Enum):
    """What a conversation ends with, as a prompt."""

    BEGUN = "the beginning of an answer"
    AS_IS = "its final message"
    CONTINUED = "its final message, open to go on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    messages: Sequence[Mapping[str, Any]]
    ending: ChatEnding = ChatEnding.BEGUN
    thinks: bool | None = None
    """For a template that asks whether the model is to think; None leaves the template its own default."""
