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
    """Compute tokens [start, start + num_tokens) of a sequence, then sample if told to.

    A tuple, like all that is made once per sequence and step: a frozen dataclass takes four times as long to make.
    """

    sequence_id: int
    start: int
    num_tokens: int
    new_page_ids: tuple[int, ...]
    sample: bool
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
