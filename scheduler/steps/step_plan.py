"""The plan of one step as it is sent to a worker, and the protocol of the link to the worker."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.steps.sequence import Sequence


class PlannedSequence(NamedTuple):
    """A chunk with the pages that were granted for it.

    It starts between `start` and `max_start`, depending on the results in flight.
    """

    sequence: Sequence
    start: int
    max_start: int
    num_tokens: int
    new_page_ids: tuple[PageId, ...]
    max_new_tokens: int
    """Maximum number of new tokens; the step returns at least one. 0 samples nothing."""
    num_steps: int = 1
    """Number of the lease's steps in which it takes part; 1 without a lease."""

    @property
    def only_decodes(self) -> bool:
        return self.num_tokens == 1 and self.max_new_tokens > 0 and not self.new_page_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The plan of one step, or of a lease."""

    step_id: int
    finished_sequence_ids: tuple[int, ...]
    new_sequences: tuple[Sequence, ...]
    scheduled: tuple[PlannedSequence, ...]
    sealed_blocks: tuple[tuple[PageId, BlockHash], ...] = ()
    """Pages whose content became final with a result. The worker reports them after a reconnect."""
    idle_pages: tuple[range, ...] = ()
    """Pages that hold nothing, so that the worker may return their memory."""
    max_steps: int = 1
    """Number of steps. More than 1 makes it a lease, which the worker runs by itself."""

    @property
    def traceparent(self) -> str:
        """Trace context of the traced sequence with the largest chunk. Equal chunks take turns. Empty if none is traced."""
        traced = [planned for planned in self.scheduled if planned.sequence.traceparent]
        if not traced:
            return ""
        largest = max(planned.num_tokens for planned in traced)
        candidates = [planned.sequence.traceparent for planned in traced if planned.num_tokens == largest]
        return candidates[self.step_id % len(candidates)]


class WorkerLink(Protocol):
    """The link to one worker. Its methods return immediately."""

    def send_step(self, plan: StepPlan) -> None: ...

    def send_recall(self, step_id: int) -> None:
        """Tell the worker to end the lease that began with this step, if it has not ended."""

    def send_unload(self) -> None: ...

    def send_drain(self) -> None: ...
