"""The search for reasoning that the end of a prompt has begun or ended."""

from enum import Enum

from pagoda.models.output_formats.description import ReasoningSyntax


class ReasoningStart(Enum):
    """The state of the reasoning at the end of a prompt."""

    OPEN = "the prompt has begun it"
    MAY_OPEN = "the model may begin it"
    NONE = "there is none"


def find_reasoning_start(
    prompt: str, syntax: ReasoningSyntax | None, *, is_off: bool, continued: str
) -> ReasoningStart:
    """Return what a rendered prompt says about reasoning.

    `is_off` is True if the template was told that the model does not reason. `continued` is the beginning of the answer, if the
    prompt has one. Markers that a message contains are no markers if `prompt` and `continued` have a mark inside them.
    """
    if syntax is None:
        return ReasoningStart.NONE
    opened, closed = syntax.open.strip(), syntax.close.strip()
    if continued.strip():
        # An answer that has begun cannot have reasoning before it, unless it is inside the reasoning itself.
        is_inside = continued.rfind(opened) > continued.rfind(closed)
        return ReasoningStart.OPEN if is_inside else ReasoningStart.NONE
    end = prompt.rstrip()
    if end.endswith(opened):
        return ReasoningStart.OPEN
    return ReasoningStart.NONE if is_off or end.endswith(closed) else ReasoningStart.MAY_OPEN
