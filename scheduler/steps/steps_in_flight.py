"""The steps of one worker that it has not answered: those it was sent, and those that it begins by itself under a lease."""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from scheduler.errors import WorkerProtocolError
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from scheduler.steps.step_times import work_of

# The worker computes one step while the next one waits in its queue, so it never waits for the network.
MAX_STEPS_IN_FLIGHT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInFlight:
    step_id: int
    num_tokens: int
    """That are computed at most."""
    num_new_tokens: int
    """That are sampled at most."""
    work: int
    """As step_times.py measures it."""
    num_context_tokens: int
    """That its sequences will hold at most."""
    computing: tuple[Sequence, ...]
    """All that take part."""
    sampling: dict[int, tuple[Sequence, int, int]]
    """Sequence id → the sequence, the attempt that is being sampled, and how many tokens that brings at most."""


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """Steps that the worker will begin by itself behind the two that are in flight."""

    plan: StepPlan
    taking_part: dict[int, PlannedSequence]
    """The sequences of the next of them, by id."""
    num_begun: int = 1
    is_outdated: bool = False
    """It goes on with a sequence that left, or without one that does not end where it could have."""
    is_recalled: bool = False


class StepsInFlight:
    def __init__(self) -> None:
        self.unanswered: deque[StepInFlight] = deque()
        """The oldest first."""
        self.lease: Lease | None = None
        """What the worker will do behind them without being told."""
        self.last_step_id = 0

    @property
    def has_room(self) -> bool:
        return len(self.unanswered) < MAX_STEPS_IN_FLIGHT

    @property
    def oldest(self) -> StepInFlight | None:
        return self.unanswered[0] if self.unanswered else None

    def add_sent_step(self, plan: StepPlan) -> None:
        """It is sent now, and its chunks are counted."""
        self._add(
            plan.step_id, [(each, max_start, num, most) for each, _, max_start, num, _, most, _ in plan.scheduled]
        )

    def begin_lease(self, plan: StepPlan) -> None:
        """It was sent as one."""
        taking_part = {planned.sequence.sequence_id: planned for planned in plan.scheduled}
        self.lease = Lease(plan=plan, taking_part=taking_part)
        self.follow_lease()

    def take_answered_step(self, step_id: int) -> StepInFlight:
        """Return the step whose result has come, and hold it no longer. Raise WorkerProtocolError when another one was due."""
        step = self.oldest
        if step is None or step.step_id != step_id:
            due = f"step {step.step_id}" if step else "none"
            raise WorkerProtocolError(f"result of step {step_id} came, but {due} was due")
        return self.unanswered.popleft()

    def follow_lease(self) -> None:
        """Count the steps of a lease as in flight that the worker will run whatever is said to it now: two, like others.

        Called when a lease is sent, and after each result. Nothing is decided here: these steps were planned with the first one.
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
        """The worker runs no step of it beyond those in flight."""
        self.lease = None

    def recall_lease(self) -> int | None:
        """Returns the first step of a lease that the worker is to end now, which is said once."""
        if self.lease is None or self.lease.is_recalled:
            return None
        self.lease.is_recalled = True
        return self.lease.plan.step_id

    def leave_out(self, sequence: Sequence, *, worker_knows: bool) -> None:
        """The steps behind those in flight go on without it."""
        if self.lease is not None and self.lease.taking_part.pop(sequence.sequence_id, None) is not None:
            self.lease.is_outdated |= not worker_knows

    def outdate_lease_without(self, sequence: Sequence) -> None:
        """Called for a sequence whose last step of a lease has begun, or whose step brought fewer tokens than it promised: it may
        need steps behind those that were leased to it."""
        lease = self.lease
        if lease is not None and sequence.sequence_id not in lease.taking_part and sequence.num_pending:
            lease.is_outdated = True

    def reach(self, sequence: Sequence) -> int:
        """How long it is at most by now, whatever results are on their way."""
        lease = self.lease
        if lease is None or (planned := lease.taking_part.get(sequence.sequence_id)) is None:
            return sequence.length
        return sequence.length + (planned.num_steps - lease.num_begun) * planned.max_new_tokens

    def _add(self, step_id: int, chunks: Seq[tuple[Sequence, int, int, int]]) -> None:
        """Each with where it starts at most, its number of tokens, and how many new ones it promises."""
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
