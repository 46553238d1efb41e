"""What goes down to a worker for one step, and the way to it."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.steps.sequence import Sequence


class PlannedSequence(NamedTuple):
    """A chunk with the pages that were granted for it.

    Results that are on their way decide where it starts: at the earliest at `start`, at the latest at `max_start`.
    """

    sequence: Sequence
    start: int
    max_start: int
    num_tokens: int
    new_page_ids: tuple[PageId, ...]
    max_new_tokens: int
    """The step promises at least one and at most so many; 0 samples nothing."""
    num_steps: int = 1
    """In a lease: how many of its steps."""

    @property
    def only_decodes(self) -> bool:
        return self.num_tokens == 1 and self.max_new_tokens > 0 and not self.new_page_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What goes down the stream for one step."""

    step_id: int
    finished_sequence_ids: tuple[int, ...]
    new_sequences: tuple[Sequence, ...]
    scheduled: tuple[PlannedSequence, ...]
    sealed_blocks: tuple[tuple[PageId, BlockHash], ...] = ()
    """Pages whose content became final with a result, named for the worker to report after a reconnect."""
    max_steps: int = 1
    """More than 1 is a lease: the worker goes on by itself."""

    @property
    def traceparent(self) -> str:
        """Of the traced sequence with the largest chunk; where several decode, they take turns. Empty without any."""
        traced = [planned for planned in self.scheduled if planned.sequence.traceparent]
        if not traced:
            return ""
        largest = max(planned.num_tokens for planned in traced)
        candidates = [planned.sequence.traceparent for planned in traced if planned.num_tokens == largest]
        return candidates[self.step_id % len(candidates)]


class WorkerLink(Protocol):
    """The way to one worker. The calls return at once."""

    def send_step(self, plan: StepPlan) -> None: ...

    def send_recall(self, step_id: int) -> None:
        """End the lease that begins with this step, if it has not ended."""

    def send_unload(self) -> None: ...

    def send_drain(self) -> None: ...
