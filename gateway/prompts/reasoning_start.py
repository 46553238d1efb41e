"""What a prompt says about the reasoning that may come before the answer."""

from enum import Enum


class ReasoningStart(Enum):
    """What the end of the prompt says about reasoning."""

    OPEN = "the prompt has begun it"
    MAY_OPEN = "the model may begin it"
    NONE = "there is none"
