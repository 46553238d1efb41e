"""The parts of streams that the official clients receive."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MODEL = "smollm2:135m"


@dataclass(slots=True)
class Sample:
    """The parts of one sample that a client received, in order."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[tuple[str, float]] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


Answer = dict[int, Sample]
OnChunk = Callable[[], object]


def take_choice(sample: Sample, choice: Any) -> None:
    """Add the token ids and the end of a choice in OpenAI's dialect."""
    sample.token_ids += getattr(choice, "token_ids", None) or ()
    if choice.finish_reason is not None:
        sample.ends.append(choice.finish_reason)


def take_end(sample: Sample, part: Any) -> None:
    """Add the end of a stream in Ollama's dialect."""
    if part.done:
        sample.ends.append(f"{part.done_reason} after {part.eval_count}")
