"""What the scheduler tells a worker to do in one step, as dataclasses."""

from dataclasses import dataclass
from typing import NamedTuple

from pagoda.wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSequence:
    """A sequence that the engine does not know yet, or knew under an older attempt."""

    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    sampling: SamplingParams
    sample_index: int


class ScheduledSequence(NamedTuple):
    """Compute `num_tokens` tokens of a sequence, then sample at least one new token and at most `max_new_tokens`; none if 0.

    What samples starts so that it ends with the last known token; the plan allows [start, max_start]. All else starts at `start`.

    A tuple, like all that is made once per sequence and step: a frozen dataclass takes four times as long to make.
    """

    sequence_id: int
    start: int
    max_start: int
    num_tokens: int
    new_page_ids: tuple[int, ...]
    max_new_tokens: int
    num_steps: int = 1
    """Of a lease, those that it takes part in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    step_id: int
    finished_sequence_ids: tuple[int, ...] = ()
    new_sequences: tuple[NewSequence, ...] = ()
    scheduled: tuple[ScheduledSequence, ...] = ()
    max_steps: int = 1
    """More where this step is the first of a lease."""
