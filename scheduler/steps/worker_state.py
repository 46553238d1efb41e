"""The state of an attached worker: its limits, pages, running sequences and steps in flight."""

from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from enum import Enum, auto

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId, PagePool
from scheduler.steps.prompt_speed import PromptSpeed
from scheduler.steps.sealed_blocks import SealedBlocks
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import (
    DEFAULT_PREFILL_LIMITS,
    Admission,
    Chunk,
    PrefillLimits,
    StepDecision,
    StepLimits,
)
from scheduler.steps.step_plan import PlannedSequence, StepPlan, WorkerLink
from scheduler.steps.steps_in_flight import StepsInFlight
from scheduler.worker_info import WorkerInfo


class WorkerPhase(Enum):
    SERVING = auto()
    LEAVING = auto()
    """The worker asked to leave. No sequence is admitted any more, and its sequences move or end."""
    DISMISSED = auto()
    """The worker was notified that no step follows."""


@dataclass(slots=True, eq=False, repr=False)
class AttachedWorker:
    info: WorkerInfo
    session_id: int
    link: WorkerLink
    held_blocks: InitVar[Iterable[tuple[PageId, BlockHash]]] = ()
    """Blocks that its pages have kept from an earlier stream."""
    max_lease_steps: InitVar[int] = 1
    prefill_limits: InitVar[PrefillLimits] = DEFAULT_PREFILL_LIMITS
    pool: PagePool = field(init=False)
    sealed: SealedBlocks = field(init=False)
    step_limits: StepLimits = field(init=False)
    running: list[Sequence] = field(default_factory=list)
    prefilling: dict[int, Sequence] = field(default_factory=dict)
    """Running sequences without a planned step that samples, by sequence id."""
    num_prompt_tokens: int = 0
    """Total number of uncached prompt tokens admitted to this worker."""
    prompt_speed: PromptSpeed = field(default_factory=PromptSpeed)
    steps: StepsInFlight = field(default_factory=StepsInFlight)
    known: set[int] = field(default_factory=set)
    """Sequence ids that the worker holds state for."""
    forgotten: list[int] = field(default_factory=list)
    """Sequence ids that the worker must forget with the next plan."""
    idle_pages: list[range] = field(default_factory=list)
    """Pages without content that the worker must learn of with the next plan."""
    _phase: WorkerPhase = field(default=WorkerPhase.SERVING, init=False)

    def __post_init__(
        self, held_blocks: Iterable[tuple[PageId, BlockHash]], max_lease_steps: int, prefill_limits: PrefillLimits
    ) -> None:
        limits = self.info.limits
        self.pool = PagePool(limits.num_pages)
        self.pool.restore_blocks(held_blocks)
        self.sealed = SealedBlocks(self.pool)
        self.step_limits = StepLimits(
            max_step_tokens=limits.max_step_tokens,
            max_step_sequences=limits.max_step_sequences,
            watermark_pages=limits.num_pages // 100,
            max_lease_steps=max_lease_steps,
            reserved_places=limits.max_step_sequences // 8,
            max_new_tokens=limits.max_new_tokens,
            prefill=prefill_limits.of_steps(limits.max_step_tokens),
        )

    @property
    def phase(self) -> WorkerPhase:
        """Phase of the worker. Only `start_leaving`, `dismiss` and `unload` change it."""
        return self._phase

    @property
    def is_busy(self) -> bool:
        return bool(self.steps.unanswered)

    @property
    def is_idle(self) -> bool:
        """True if the worker has no sequence and no step in flight."""
        return not self.running and not self.is_busy

    @property
    def growth_bytes(self) -> int:
        """Memory that the worker's pages may still take from the machine. A device's memory is taken at once."""
        if not self.info.device.startswith("cpu"):
            return 0
        return self.info.kv_bytes * self.pool.num_untouched // self.pool.num_pages

    def start_leaving(self) -> None:
        """Admit no more sequences, because the worker asked to leave."""
        assert self._phase is WorkerPhase.SERVING
        self._phase = WorkerPhase.LEAVING

    def dismiss(self) -> None:
        """Tell the worker that no further steps follow. A second call does nothing."""
        if self._phase is not WorkerPhase.DISMISSED:
            self._phase = WorkerPhase.DISMISSED
            self.link.send_drain()

    def unload(self) -> None:
        """Tell the worker to unload its model. It must be serving and idle."""
        assert self._phase is WorkerPhase.SERVING and self.is_idle
        self._phase = WorkerPhase.DISMISSED
        self.link.send_unload()

    def recall_lease(self) -> None:
        if (first_step_id := self.steps.recall_lease()) is not None:
            self.link.send_recall(first_step_id)

    def stop_sequence(self, sequence: Sequence) -> None:
        """Remove a sequence from the lease that its last token ended. The worker has already done the same."""
        # The last token is never computed, although the steps in flight were planned for it.
        sequence.computation.stop_at(len(sequence.token_ids) - 1)
        self.steps.leave_out(sequence, worker_knows=True)

    def release_sequence(self, sequence: Sequence) -> None:
        """Take a running sequence off this worker: release its pages, have its state forgotten, and void its late results."""
        self.steps.leave_out(sequence, worker_knows=False)
        self.running.remove(sequence)
        self.prefilling.pop(sequence.sequence_id, None)
        self.pool.release_pages(sequence.stop_running())
        if sequence.sequence_id in self.known:
            self.known.remove(sequence.sequence_id)
            self.forgotten.append(sequence.sequence_id)

    def seal_full_blocks(self, sequence: Sequence) -> None:
        """Offer to others the sequence's blocks that are full, known, and computed by a step that was sent."""
        if blocks := sequence.take_sealable_pages():
            self.sealed.add_blocks(blocks, self.steps.last_step_id)

    def collect_idle_pages(self, max_age: int) -> bool:
        """Find pages whose memory the worker may return, and return True if there are any. It learns of them with the next plan.

        `max_age` is the number of calls after which a cached block is dropped if no sequence has used it.
        """
        self.idle_pages += self.pool.collect_idle(max_age)
        return bool(self.idle_pages)

    def carry_out_decision(self, decision: StepDecision) -> StepPlan | None:
        """Grant the pages of a decision and return the plan to send, or None if there is nothing to send.

        Preempted and outgrown sequences have left already. A worker that becomes idle gets a last plan without chunks if there
        are final blocks or idle pages that it does not know yet.
        """
        for admission in decision.admissions:
            self._admit(admission)
        has_news = self.sealed.has_untold or bool(self.idle_pages)
        if not decision.chunks and (self.is_busy or not has_news):
            return None
        scheduled = tuple(self._grant(chunk) for chunk in decision.chunks)
        plan = StepPlan(
            step_id=self.steps.last_step_id + 1,
            finished_sequence_ids=tuple(self.forgotten),
            new_sequences=tuple(s.sequence for s in scheduled if s.sequence.sequence_id not in self.known),
            scheduled=scheduled,
            sealed_blocks=self.sealed.take_untold(),
            idle_pages=tuple(self.idle_pages),
            max_steps=decision.num_steps,
        )
        self._remember(plan)
        return plan

    def _admit(self, admission: Admission) -> None:
        sequence = admission.sequence
        self.pool.share_pages(admission.cached_pages)
        sequence.start_running(self.info.worker_id, self.info.numerics_id, admission.cached_pages)
        self.running.append(sequence)
        self.prefilling[sequence.sequence_id] = sequence
        self.num_prompt_tokens += sequence.num_pending

    def _grant(self, chunk: Chunk) -> PlannedSequence:
        # Unpacked in one statement for speed: this runs for each sequence in each step.
        sequence, max_start, num_tokens, num_new_pages, max_new_tokens, num_steps = chunk
        computation = sequence.computation
        table = computation.block_table
        # A sequence that is new to the worker gets its whole block table, cached pages first.
        first = len(table) if sequence.sequence_id in self.known else 0
        if num_new_pages:
            table += self.pool.allocate_pages(num_new_pages)
        new_page_ids = tuple(table[first:]) if len(table) > first else ()
        start = max_start - computation.num_uncertain
        computation.begin_chunk(num_tokens, max_new_tokens)
        if max_new_tokens:
            self.prefilling.pop(sequence.sequence_id, None)
        return PlannedSequence(sequence, start, max_start, num_tokens, new_page_ids, max_new_tokens, num_steps)

    def _remember(self, plan: StepPlan) -> None:
        self.forgotten.clear()
        self.idle_pages.clear()
        self.known.update(sequence.sequence_id for sequence in plan.new_sequences)
        self.steps.add_sent_step(plan)
        for planned in plan.scheduled:
            self.seal_full_blocks(planned.sequence)
        if plan.max_steps > 1:
            self.steps.begin_lease(plan)
