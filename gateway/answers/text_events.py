"""The events of a request as text, which each API turns into its own objects."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from gateway.parsing.parts import AnswerPart, ContentPart
from pagoda.wire.finished import FinishReason, Timings, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """A token with its log-probability. `top` has its alternatives, best first, and is empty for the alternatives themselves."""

    token_id: int
    text: str
    utf8: bytes
    logprob: float | None
    """None for the first token of a prompt, which has no context."""
    top: tuple["TokenText", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBegan:
    """The start of a sample."""

    index: int
    num_cached_tokens: int = 0
    """Number of prompt tokens whose keys and values were in the prefix cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """The log-probabilities of the prompt's tokens, if requested. They precede the sample's first text."""

    index: int
    tokens: Sequence[TokenText]
    """The same object for all samples of a prompt."""


@dataclass(slots=True, kw_only=True)  # Not frozen: that would cost a microsecond per token.
class TextDelta:
    """More text of a sample: complete characters, no possible beginning of a stop string."""

    index: int
    text: str
    logprobs: tuple[TokenText, ...]
    """Log-probabilities of the tokens whose text is released; empty unless requested."""
    token_ids: tuple[int, ...]
    """Tokens since the previous delta."""
    num_tokens: int
    """Number of the sample's tokens so far."""
    parts: tuple[AnswerPart, ...] = ()
    """The new parts of the answer, in order, if its output is parsed; `text` is then the text of its ContentParts."""

    @property
    def answer_parts(self) -> tuple[AnswerPart, ...]:
        """The new parts of the answer, in order, parsed or not."""
        return self.parts or ((ContentPart(self.text),) if self.text else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEnded:
    """The end of a sample."""

    index: int
    reason: FinishReason
    stop_reason: str | int | None
    """Stop string or stop token id that ended the sample; None if the model or a limit ended it."""
    usage: Usage
    timings: Timings
    token_ids: tuple[int, ...]
    """All tokens of the sample."""
    num_calls: int = 0
    """Number of tool calls in the answer."""
    num_reasoning_tokens: int = 0
    """Number of tokens of the reasoning, with its markers."""


TextEvent = SampleBegan | PromptScored | TextDelta | SampleEnded
TextEvents = AsyncGenerator[TextEvent, None]
