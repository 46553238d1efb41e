"""The steps of one message: the one that it describes and, if it is a lease, the decode steps that follow without a message.

A `Lease` decides which step begins next and which one is the last. step_loop.py runs them.
"""

from collections import deque

from pagoda.wire.step_result import StepResult
from worker.steps.step import ScheduledSequence, Step

MOST_IN_FLIGHT = 2
"""Maximum number of steps in flight, as a scheduler counts them. A lease that ends early ends with the step after the one whose
result says so; with more in flight, a third step would have begun by then."""


class Lease:
    def __init__(self, step: Step) -> None:
        self._first = step
        self._last: Step | None = None
        """The step that was begun last."""
        self._num_left = step.max_steps
        """Number of steps that are not begun yet."""
        self._begun: deque[Step] = deque()
        """Steps that are begun and whose results were not observed yet."""
        self._stopped: set[int] = set()
        """Ids of the sequences that a token has ended."""

    @property
    def first_step_id(self) -> int:
        return self._first.step_id

    @property
    def is_over(self) -> bool:
        """True if no further step will begin."""
        return self._num_left == 0

    def advance(self) -> Step:
        """Return the next step to begin, without the sequences that a token is known to have ended."""
        step = self._last = self._first if self._last is None else self._behind(self._last)
        self._num_left -= 1
        self._begun.append(step)
        return step

    def observe(self, result: StepResult, *, is_recalled: bool) -> bool:
        """Take the result of the oldest begun step. Return True if the next step ends the lease early.

        That last step still runs, so that the worker does not wait while the scheduler plans what follows.
        """
        step = self._begun.popleft()
        self._stopped.update(sampled.sequence_id for sampled in result.sampled if sampled.stopped)
        num_behind = len(self._begun) + self._num_left
        if num_behind > 1 and (is_recalled or not any(map(self._stays, step.scheduled))):
            self._num_left = max(0, 1 - len(self._begun))
            return True
        return False

    def _behind(self, step: Step) -> Step:
        scheduled = tuple(
            ScheduledSequence(
                each.sequence_id,
                each.start + 1,
                each.max_start + each.max_new_tokens,
                1,
                (),
                each.max_new_tokens,
                each.num_steps - 1,
            )
            for each in step.scheduled
            if self._stays(each)
        )
        return Step(step_id=step.step_id + 1, scheduled=scheduled)

    def _stays(self, scheduled: ScheduledSequence) -> bool:
        """Return True if the sequence takes part in the step after the one that scheduled it."""
        return scheduled.num_steps > 1 and scheduled.sequence_id not in self._stopped
