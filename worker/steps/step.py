"""The plan of one step, sent by the scheduler, as dataclasses."""

from dataclasses import dataclass
from typing import NamedTuple

from pagoda.wire.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSequence:
    """A sequence that the engine does not have yet, or has under an older attempt."""

    sequence_id: int
    attempt: int
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    sampling: SamplingParams
    sample_index: int


class ScheduledSequence(NamedTuple):
    """A chunk to compute: `num_tokens` tokens of a sequence, then one to `max_new_tokens` new tokens, or none if that is 0.

    A chunk that is sampled ends with the last known token, and so may start anywhere in [start, max_start]. Any other chunk
    starts at `start`.

    This is a tuple because one is made per sequence and step: making a frozen dataclass takes four times as long.
    """

    sequence_id: int
    start: int
    max_start: int
    num_tokens: int
    new_page_ids: tuple[int, ...]
    max_new_tokens: int
    num_steps: int = 1
    """Number of steps of a lease in which the sequence takes part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    step_id: int
    finished_sequence_ids: tuple[int, ...] = ()
    new_sequences: tuple[NewSequence, ...] = ()
    scheduled: tuple[ScheduledSequence, ...] = ()
    idle_pages: tuple[range, ...] = ()
    """Pages that hold nothing, whose memory may be returned before the step."""
    max_steps: int = 1
    """Number of steps to run: more than 1 if this step is the first of a lease."""
