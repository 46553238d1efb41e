"""The start of the reasoning that may come before the answer, as the prompt shows it."""

from enum import Enum


class ReasoningStart(Enum):
    """The state of the reasoning at the end of a prompt."""

    OPEN = "the prompt has begun it"
    MAY_OPEN = "the model may begin it"
    NONE = "there is none"
