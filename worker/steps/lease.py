"""The steps that one message stands for: the one that it describes, and where it is a lease, those that follow by themselves.

Owns which step is to be begun next and which is the last. Streams and engines are the step loop's (step_loop.py).
"""

from collections import deque

from pagoda.wire.step_result import StepResult
from worker.steps.step import ScheduledSequence, Step

MOST_IN_FLIGHT = 2
"""As many steps as a scheduler counts as in flight: a lease that ends early ends with the step behind the one whose result says
so, and a third one would be begun by then."""


class Lease:
    def __init__(self, step: Step) -> None:
        self._first = step
        self._last: Step | None = None
        """The one that was begun last."""
        self._num_left = step.max_steps
        """How many are to be begun."""
        self._begun: deque[Step] = deque()
        """Those whose results were not observed yet."""
        self._stopped: set[int] = set()
        """Sequences that a token has ended."""

    @property
    def first_step_id(self) -> int:
        return self._first.step_id

    @property
    def is_over(self) -> bool:
        """Whether no further step is to be begun."""
        return self._num_left == 0

    def advance(self) -> Step:
        """Return the step to be begun now, without the sequences of which it is known that a token has ended them."""
        step = self._last = self._first if self._last is None else self._behind(self._last)
        self._num_left -= 1
        self._begun.append(step)
        return step

    def observe(self, result: StepResult, *, is_recalled: bool) -> bool:
        """Take the result of the step that was begun first. True if the one behind it is the last, earlier than was leased.

        That one is still run, so that the scheduler can prepare what comes then without the worker waiting for it.
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
        """Whether the sequence takes part in the step behind the one that scheduled it."""
        return scheduled.num_steps > 1 and scheduled.sequence_id not in self._stopped
