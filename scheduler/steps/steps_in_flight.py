"""The steps of one worker that it has not answered: those it was sent, and those that it begins by itself under a lease.

Knows nothing about pages, and what is computed and why.
"""

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
    work: int
    """As step_times.py measures it."""
    num_context_tokens: int
    """That its sequences will hold."""
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

    def begin(self, plan: StepPlan) -> None:
        """It is sent now."""
        for planned in plan.scheduled:
            planned.sequence.num_sampling += planned.max_new_tokens
        self._add(plan.step_id, plan.scheduled)

    def begin_lease(self, plan: StepPlan) -> None:
        """It was sent as one."""
        sequences = {planned.sequence.sequence_id: planned.sequence for planned in plan.scheduled}
        self.lease = Lease(first_step_id=plan.step_id, num_steps_left=plan.max_steps - 1, sequences=sequences)
        self.follow_lease()

    def end(self, step_id: int) -> StepInFlight:
        """Its result is here. Raises WorkerProtocolError when another one was due."""
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
            lease.sequences = {number: each for number, each in lease.sequences.items() if each.num_pending}
            chunks = [
                PlannedSequence(each, each.num_computed, each.num_computed, 1, (), max_new_tokens=1)
                for each in lease.sequences.values()
            ]
            for sequence in lease.sequences.values():
                sequence.num_computed += 1
                sequence.num_sampling += 1
            self._add(self.last_step_id + 1, chunks)
            lease.num_steps_left -= 1
            if lease.num_steps_left == 0:
                self.lease = None

    def end_lease(self) -> None:
        """The worker runs no step of it beyond those in flight."""
        self.lease = None

    def recall_lease(self) -> int | None:
        """Returns the first step of a lease that the worker is to end now, which is said once."""
        if self.lease is None or self.lease.is_recalled:
            return None
        self.lease.is_recalled = True
        return self.lease.first_step_id

    def leave_out(self, sequence: Sequence, *, worker_knows: bool) -> None:
        """The steps behind those in flight go on without it."""
        if self.lease is not None and self.lease.sequences.pop(sequence.sequence_id, None) is not None:
            self.lease.is_outdated |= not worker_knows

    def reach(self, sequence: Sequence) -> int:
        """How long it is at most by now, whatever results are on their way."""
        lease = self.lease if self.lease is not None and sequence.sequence_id in self.lease.sequences else None
        return sequence.length + (lease.num_steps_left if lease is not None else 0)

    def _add(self, step_id: int, scheduled: Seq[PlannedSequence]) -> None:
        step = StepInFlight(
            step_id=step_id,
            num_tokens=sum(planned.num_tokens for planned in scheduled),
            work=work_of((planned.start, planned.num_tokens) for planned in scheduled),
            num_context_tokens=sum(planned.start + planned.num_tokens for planned in scheduled),
            computing=tuple(planned.sequence for planned in scheduled),
            sampling={p.sequence.sequence_id: (p.sequence, p.sequence.attempt) for p in scheduled if p.max_new_tokens},
        )
        self.last_step_id = step_id
        self.unanswered.append(step)
