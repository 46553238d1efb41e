"""What the scheduler tells a worker to do in one step, and what the worker answers, as dataclasses."""

from dataclasses import dataclass, field

from pagoda.logprobs import TokenLogprobs
from pagoda.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSequence:
    """A sequence that the engine does not know yet, or knew under an older attempt."""

    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    sampling: SamplingParams
    sample_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledSequence:
    """Compute tokens [start, start + num_tokens) of a sequence, then sample if told to."""

    sequence_id: int
    start: int
    num_tokens: int
    new_page_ids: tuple[int, ...]
    sample: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    step_id: int
    finished_sequence_ids: tuple[int, ...] = ()
    new_sequences: tuple[NewSequence, ...] = ()
    scheduled: tuple[ScheduledSequence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledTokens:
    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    stopped: bool = False
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTokens:
    """Log-probabilities of the prompt tokens from position `start` on."""

    sequence_id: int
    attempt: int
    start: int
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    step_id: int
    sampled: tuple[SampledTokens, ...] = field(default=())
    scored: tuple[ScoredTokens, ...] = field(default=())
    step_us: int = 0
