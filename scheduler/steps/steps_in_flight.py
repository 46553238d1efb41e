"""The steps of one worker that it has not answered: those it was sent, and those that it begins by itself under a lease."""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from pagoda.wire.step_result import StepResult
from scheduler.errors import WorkerProtocolError
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from scheduler.steps.step_times import work_of

# The worker computes one step while the next one waits in its queue, so that it never waits for the network.
MAX_STEPS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInFlight:
    step_id: int
    num_tokens: int
    """Maximum number of tokens that are computed."""
    num_new_tokens: int
    """Maximum number of tokens that are sampled."""
    work: int
    """Work of the step, as step_times.py measures it."""
    num_context_tokens: int
    """Maximum number of tokens that its sequences will have."""
    computing: tuple[Sequence, ...]
    """All sequences of the step."""
    sampling: dict[int, tuple[Sequence, int, int]]
    """Sequence id → the sequence, the attempt that is sampled, and the maximum number of new tokens."""

    def work_done(self, result: StepResult) -> int:
        """Return the work without the promised tokens that did not come. Call it before the result is applied."""
        if self.num_new_tokens == len(self.sampling):
            return self.work
        missing: list[tuple[int, int]] = []
        for sampled in result.sampled:
            sequence, _, most = self.sampling.get(sampled.sequence_id, (None, 0, 0))
            if sequence is not None and most > len(sampled.token_ids):
                missing.append((len(sequence.token_ids) - 1, most - len(sampled.token_ids)))
        return self.work - work_of(missing)


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """The steps that the worker will begin by itself after the two that are in flight."""

    plan: StepPlan
    taking_part: dict[int, PlannedSequence]
    """Sequences that take part in the next of these steps, by id."""
    num_begun: int = 1
    is_outdated: bool = False
    """True if the lease still has a sequence that left, or lacks one that could have ended but did not."""
    is_recalled: bool = False


class StepsInFlight:
    def __init__(self) -> None:
        self.unanswered: deque[StepInFlight] = deque()
        """Steps without a result, the oldest first."""
        self.lease: Lease | None = None
        """Steps that the worker will run after them without a further message."""
        self.last_step_id = 0

    @property
    def has_room(self) -> bool:
        return len(self.unanswered) < MAX_STEPS_IN_FLIGHT

    @property
    def oldest(self) -> StepInFlight | None:
        return self.unanswered[0] if self.unanswered else None

    def add_sent_step(self, plan: StepPlan) -> None:
        """Add a step that is sent now, and whose chunks the sequences have counted."""
        self._add(
            plan.step_id, [(each, max_start, num, most) for each, _, max_start, num, _, most, _ in plan.scheduled]
        )

    def begin_lease(self, plan: StepPlan) -> None:
        """Begin a lease, whose first step was added."""
        taking_part = {planned.sequence.sequence_id: planned for planned in plan.scheduled}
        self.lease = Lease(plan=plan, taking_part=taking_part)
        self.follow_lease()

    def take_answered_step(self, step_id: int) -> StepInFlight:
        """Remove and return the step whose result has arrived. Raises WorkerProtocolError if another result is due."""
        step = self.oldest
        if step is None or step.step_id != step_id:
            due = f"step {step.step_id}" if step else "none"
            raise WorkerProtocolError(f"received the result of step {step_id} (expected: {due})")
        return self.unanswered.popleft()

    def follow_lease(self) -> None:
        """Count the steps of a lease that the worker will run in any case as in flight: two, as without a lease.

        It is called when a lease is sent, and after each result. These steps were planned with the first one.
        """
        while self.lease is not None and self.has_room:
            lease = self.lease
            for planned in [each for each in lease.taking_part.values() if each.num_steps == lease.num_begun]:
                del lease.taking_part[planned.sequence.sequence_id]
                self.outdate_lease_without(planned.sequence)
            chunks = [
                (planned.sequence, planned.sequence.computation.num_computed, 1, planned.max_new_tokens)
                for planned in lease.taking_part.values()
            ]
            self._add(self.last_step_id + 1, chunks)
            for sequence, _, num_tokens, max_new_tokens in chunks:
                sequence.computation.begin_chunk(num_tokens, max_new_tokens)
            lease.num_begun += 1
            if lease.num_begun == lease.plan.max_steps:
                self.lease = None

    def end_lease(self) -> None:
        """Note that the worker runs no step of the lease beyond those in flight."""
        self.lease = None

    def recall_lease(self) -> int | None:
        """Return the id of the first step of the lease, to recall it; None if there is no lease or it was recalled already."""
        if self.lease is None or self.lease.is_recalled:
            return None
        self.lease.is_recalled = True
        return self.lease.plan.step_id

    def leave_out(self, sequence: Sequence, *, worker_knows: bool) -> None:
        """Remove a sequence from the steps of the lease that are not in flight yet."""
        if self.lease is not None and self.lease.taking_part.pop(sequence.sequence_id, None) is not None:
            self.lease.is_outdated |= not worker_knows

    def outdate_lease_without(self, sequence: Sequence) -> None:
        """Mark the lease as outdated if it lacks a sequence that still has tokens to compute.

        It is called for a sequence whose last leased step has begun, or whose step returned fewer tokens than promised.
        """
        lease = self.lease
        if lease is not None and sequence.sequence_id not in lease.taking_part and sequence.num_pending:
            lease.is_outdated = True

    def reach(self, sequence: Sequence) -> int:
        """Return the greatest length that the sequence may have on the worker by now."""
        lease = self.lease
        if lease is None or (planned := lease.taking_part.get(sequence.sequence_id)) is None:
            return sequence.length
        return sequence.length + (planned.num_steps - lease.num_begun) * planned.max_new_tokens

    def _add(self, step_id: int, chunks: Seq[tuple[Sequence, int, int, int]]) -> None:
        """Add a step. Each chunk is (sequence, latest start, number of tokens, maximum number of new tokens)."""
        sampling, spans = {}, []
        num_tokens = num_new_tokens = num_context_tokens = 0
        for sequence, max_start, num_computed, most in chunks:
            if most:
                sampling[sequence.sequence_id] = (sequence, sequence.computation.attempt, most)
                num_new_tokens += most
                num_computed += most - 1
            num_tokens += num_computed
            num_context_tokens += max_start + num_computed
            spans.append((max_start, num_computed))
        step = StepInFlight(
            step_id=step_id,
            num_tokens=num_tokens,
            num_new_tokens=num_new_tokens,
            work=work_of(spans),
            num_context_tokens=num_context_tokens,
            computing=tuple(sequence for sequence, _, _, _ in chunks),
            sampling=sampling,
        )
        self.last_step_id = step_id
        self.unanswered.append(step)
