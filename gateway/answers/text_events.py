"""What becomes of a request, as text: the events that both dialects turn into their own objects."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from pagoda.wire.finished import FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """A token with its log-probability. `top` has its alternatives, best first, and is empty for the alternatives themselves."""

    token_id: int
    text: str
    utf8: bytes
    logprob: float | None
    """None for the first token of a prompt, which nothing came before."""
    top: tuple["TokenText", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBegan:
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """The log-probabilities of the prompt's tokens, where they were asked for: before the sample's first text."""

    index: int
    tokens: Sequence[TokenText]
    """The same object for all samples of a prompt."""


@dataclass(slots=True, kw_only=True)  # Not frozen, which costs a microsecond for each token.
class TextDelta:
    """More text of a sample: whole characters, nothing that may yet become a stop string."""

    index: int
    text: str
    logprobs: tuple[TokenText, ...]
    """Of the tokens whose text came free; empty unless asked for."""
    token_ids: tuple[int, ...]
    """Those since the delta before."""
    num_tokens: int
    """Tokens of the sample so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnded:
    index: int
    reason: FinishReason
    stop_reason: str | int | None
    """The stop string or stop token id that ended it; None for the model's own end and for a limit."""
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]
    """All of the sample."""


TextEvent = SampleBegan | PromptScored | TextDelta | SampleEnded
TextEvents = AsyncGenerator[TextEvent, None]
