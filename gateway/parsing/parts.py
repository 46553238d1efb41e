"""The parts of an answer: text, reasoning and tool calls, in the order in which the model writes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContentPart:
    """More text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningPart:
    """More text of the reasoning before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegan:
    """The beginning of a tool call."""

    index: int
    """Number of the call in its answer, from 0."""
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of a call, as JSON text. All parts of a call together are one JSON object."""

    index: int
    text: str


AnswerPart = ContentPart | ReasoningPart | CallBegan | CallArguments
