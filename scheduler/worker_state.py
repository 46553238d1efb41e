"""An attached worker as the scheduler knows it: its limits, its pages, its running sequences, its steps in flight."""

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import InitVar, dataclass, field
from enum import Enum, auto

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId, PagePool
from scheduler.planner import Admission, Chunk, StepDecision, StepLimits
from scheduler.prompt_speed import PromptSpeed
from scheduler.sequence import Sequence, SequenceStatus
from scheduler.step_plan import PlannedSequence, StepPlan, WorkerLink
from scheduler.step_times import work_of
from scheduler.worker_info import WorkerInfo

# The worker computes one step while the next one waits in its queue, so it never waits for the network.
MAX_STEPS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInFlight:
    step_id: int
    num_tokens: int
    work: int
    """As step_times.py measures it."""
    computing: tuple[Sequence, ...]
    """All that take part."""
    sampling: dict[int, tuple[Sequence, int]]
    """Sequence id → the sequence and the attempt whose token is being sampled."""


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """Steps that the worker will begin by itself behind the two that are in flight."""

    first_step_id: int
    num_steps_left: int
    sequences: dict[int, Sequence]
    """Those that take part in the next of them."""
    is_outdated: bool = False
    """Somebody left who was to take part."""
    is_recalled: bool = False


class WorkerPhase(Enum):
    SERVING = auto()
    LEAVING = auto()
    """It asked to go: no sequence is admitted any more, and those it has move or end."""
    DISMISSED = auto()
    """It was told that no step follows."""


@dataclass(slots=True, eq=False, repr=False)
class AttachedWorker:
    info: WorkerInfo
    session_id: int
    link: WorkerLink
    held_blocks: InitVar[Iterable[tuple[PageId, BlockHash]]] = ()
    """What its pages have kept from an earlier stream."""
    max_lease_steps: InitVar[int] = 1
    pool: PagePool = field(init=False)
    step_limits: StepLimits = field(init=False)
    phase: WorkerPhase = WorkerPhase.SERVING
    running: list[Sequence] = field(default_factory=list)
    prefilling: dict[int, Sequence] = field(default_factory=dict)
    """Those of the running ones that no step has been planned for yet that samples, by sequence id."""
    num_prompt_tokens: int = 0
    """That sequences which began to run here have brought, without those that were cached."""
    prompt_speed: PromptSpeed = field(default_factory=PromptSpeed)
    in_flight: deque[StepInFlight] = field(default_factory=deque)
    lease: Lease | None = None
    """What the worker will do behind the steps in flight without being told."""
    known: set[int] = field(default_factory=set)
    """Sequence ids that the worker holds state for."""
    forgotten: list[int] = field(default_factory=list)
    """Sequence ids that the next plan tells it to forget."""
    last_step_id: int = 0
    _being_filled: deque[tuple[int, PageId, BlockHash]] = field(default_factory=deque)
    """Sealed blocks whose content is final once the result of this step has arrived."""
    _untold: list[tuple[PageId, BlockHash]] = field(default_factory=list)
    """Final blocks that no plan has named to the worker yet."""

    def __post_init__(self, held_blocks: Iterable[tuple[PageId, BlockHash]], max_lease_steps: int) -> None:
        limits = self.info.limits
        self.pool = PagePool(limits.num_pages)
        self.pool.restore(held_blocks)
        self.step_limits = StepLimits(
            max_step_tokens=limits.max_step_tokens,
            max_step_sequences=limits.max_step_sequences,
            watermark_pages=limits.num_pages // 100,
            max_lease_steps=max_lease_steps,
        )

    @property
    def has_room_for_a_step(self) -> bool:
        return len(self.in_flight) < MAX_STEPS_IN_FLIGHT

    @property
    def is_busy(self) -> bool:
        return bool(self.in_flight)

    @property
    def is_idle(self) -> bool:
        """Nothing is computed, and nothing will be without a new decision."""
        return not self.running and not self.is_busy

    def dismiss(self) -> None:
        """Nothing is left for it to do. Said once."""
        if self.phase is not WorkerPhase.DISMISSED:
            self.phase = WorkerPhase.DISMISSED
            self.link.send_drain()

    def stop(self, sequence: Sequence) -> None:
        """Its last token ended it: the worker, which knew that first, has left it out of the steps behind."""
        # That token, for which they were planned, is not computed.
        sequence.num_computed = min(sequence.num_computed, len(sequence.token_ids) - 1)
        if self.lease is not None:
            self.lease.sequences.pop(sequence.sequence_id, None)

    def leave(self, sequence: Sequence) -> None:
        """Take a running sequence off this worker: pages back, state forgotten, late results void."""
        if self.lease is not None and self.lease.sequences.pop(sequence.sequence_id, None) is not None:
            self.lease.is_outdated = True
        self.running.remove(sequence)
        self.prefilling.pop(sequence.sequence_id, None)
        self.pool.release(sequence.forget_computation())
        if sequence.sequence_id in self.known:
            self.known.remove(sequence.sequence_id)
            self.forgotten.append(sequence.sequence_id)

    def carry_out(self, decision: StepDecision) -> StepPlan | None:
        """Grant the pages of a decision and turn it into the plan to send; None when there is nothing to say.

        Preempted and outgrown sequences have left already. A worker that becomes idle gets a last plan without chunks if there
        are blocks that it should learn the names of.
        """
        for admission in decision.admissions:
            self._admit(admission)
        if not decision.chunks and (self.in_flight or not self._untold):
            return None
        scheduled = tuple(self._grant(chunk) for chunk in decision.chunks)
        plan = StepPlan(
            step_id=self.last_step_id + 1,
            finished_sequence_ids=tuple(self.forgotten),
            new_sequences=tuple(s.sequence for s in scheduled if s.sequence.sequence_id not in self.known),
            scheduled=scheduled,
            sealed_blocks=self._take_untold(),
            max_steps=decision.num_steps,
        )
        self._remember(plan)
        return plan

    def follow_lease(self) -> None:
        """Count the steps of a lease as in flight that the worker will run whatever is said to it now: two, like others.

        Called when a lease is sent, and after each result. Nothing is decided here: these steps were planned with the first one.
        """
        while self.lease is not None and self.has_room_for_a_step:
            lease, self.last_step_id = self.lease, self.last_step_id + 1
            sequences = {number: each for number, each in lease.sequences.items() if each.num_pending}
            chunks = [PlannedSequence(each, each.num_computed, 1, (), sample=True) for each in sequences.values()]
            for sequence in sequences.values():
                sequence.num_computed += 1
                sequence.num_sampling += 1
            self._fly(self.last_step_id, chunks)
            lease.sequences = sequences
            lease.num_steps_left -= 1
            if lease.num_steps_left == 0:
                self.lease = None

    def reach(self, sequence: Sequence) -> int:
        """How long it is at most by now, whatever results are on their way."""
        lease = self.lease if self.lease is not None and sequence.sequence_id in self.lease.sequences else None
        return sequence.length + (lease.num_steps_left if lease is not None else 0)

    def recall_lease(self) -> None:
        if self.lease is not None and not self.lease.is_recalled:
            self.lease.is_recalled = True
            self.link.send_recall(self.lease.first_step_id)

    def seal(self, sequence: Sequence) -> None:
        """Offer the sequence's blocks that are full, known and computed by a step that was sent.

        Safe before the result arrives: whoever shares such a page is computed by a later step of the same stream.
        """
        for page, block in sequence.sealable():
            self.pool.seal(page, block)
            self._being_filled.append((self.last_step_id, page, block))

    def take_final(self, step_id: int) -> list[BlockHash]:
        """The blocks whose content is final now that the result of this step has been applied. The next plan names them too."""
        final = []
        while self._being_filled and self._being_filled[0][0] <= step_id:
            _, page, block = self._being_filled.popleft()
            final.append((page, block))
        final = self._still_held(final)
        self._untold += final
        return [block for _, block in final]

    def _take_untold(self) -> tuple[tuple[PageId, BlockHash], ...]:
        """Called once the pages of the plan are granted: those among them have a new content to come."""
        untold, self._untold = self._untold, []
        return tuple(self._still_held(untold))

    def _still_held(self, pages: list[tuple[PageId, BlockHash]]) -> list[tuple[PageId, BlockHash]]:
        """Without pages that were evicted since, or whose block has its home in another page."""
        return [(page, block) for page, block in pages if self.pool.block_of(page) == block]

    def _admit(self, admission: Admission) -> None:
        sequence = admission.sequence
        self.pool.share(admission.cached_pages)
        sequence.status = SequenceStatus.RUNNING
        sequence.worker_id, sequence.numerics_id = self.info.worker_id, self.info.numerics_id
        sequence.block_table = list(admission.cached_pages)
        sequence.num_sealed = len(admission.cached_pages)
        sequence.num_computed = len(admission.cached_pages) * sequence.page_size
        self.running.append(sequence)
        self.prefilling[sequence.sequence_id] = sequence
        self.num_prompt_tokens += sequence.num_pending

    def _grant(self, chunk: Chunk) -> PlannedSequence:
        sequence = chunk.sequence
        # A sequence that the worker does not know gets its whole block table, cached pages first.
        first = len(sequence.block_table) if sequence.sequence_id in self.known else 0
        if chunk.num_new_pages:
            sequence.block_table += self.pool.allocate(chunk.num_new_pages)
        sequence.num_computed += chunk.num_tokens
        if chunk.sample:
            self.prefilling.pop(sequence.sequence_id, None)
        new_pages = tuple(sequence.block_table[first:])
        return PlannedSequence(sequence, chunk.start, chunk.num_tokens, new_pages, chunk.sample, chunk.num_steps)

    def _remember(self, plan: StepPlan) -> None:
        self.last_step_id = plan.step_id
        self.forgotten.clear()
        self.known.update(sequence.sequence_id for sequence in plan.new_sequences)
        self._fly(plan.step_id, plan.scheduled)
        for planned in plan.scheduled:
            planned.sequence.num_sampling += planned.sample
            self.seal(planned.sequence)
        if plan.max_steps > 1:
            sequences = {planned.sequence.sequence_id: planned.sequence for planned in plan.scheduled}
            self.lease = Lease(first_step_id=plan.step_id, num_steps_left=plan.max_steps - 1, sequences=sequences)
            self.follow_lease()

    def _fly(self, step_id: int, scheduled: Seq[PlannedSequence]) -> None:
        step = StepInFlight(
            step_id=step_id,
            num_tokens=sum(planned.num_tokens for planned in scheduled),
            work=work_of((planned.start, planned.num_tokens) for planned in scheduled),
            computing=tuple(planned.sequence for planned in scheduled),
            sampling={p.sequence.sequence_id: (p.sequence, p.sequence.attempt) for p in scheduled if p.sample},
        )
        self.in_flight.append(step)
