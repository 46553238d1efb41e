"""What a worker answered to one step: the protobuf message as dataclasses."""

from dataclasses import dataclass
from typing import NamedTuple

from pagoda.wire.logprobs import TokenLogprobs


class SampledTokens(NamedTuple):
    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    stopped: bool = False
    stop_token_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredTokens:
    """Of prompt tokens, from position `start` on."""

    sequence_id: int
    attempt: int
    start: int
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    step_id: int
    sampled: tuple[SampledTokens, ...]
    scored: tuple[ScoredTokens, ...] = ()
    next_is_last: bool = False
    """The lease ends early: with the step behind this one."""
