"""The steps that one message stands for: the one that it describes, and where it is a lease, those that follow by themselves.

Owns which step comes next and which is the last. Knows nothing about streams and engines.
"""

from pagoda.wire.step_result import StepResult
from worker.steps.step import Step


class Lease:
    def __init__(self, step: Step) -> None:
        self.step = step
        """To be run next."""
        self._num_left = step.max_steps

    @property
    def is_over(self) -> bool:
        return self._num_left == 0

    def go_on(self, result: StepResult, *, is_recalled: bool) -> bool:
        """Take the result of `step`, and let the one behind it be next. True if that one is the last, earlier than was leased.

        It is still run, so that the scheduler can prepare what comes then without the worker waiting for it.
        """
        stopped = {sampled.sequence_id for sampled in result.sampled if sampled.stopped}
        scheduled = tuple(
            each._replace(
                start=each.start + 1,
                max_start=each.max_start + each.max_new_tokens,
                new_page_ids=(),
                num_steps=each.num_steps - 1,
            )
            for each in self.step.scheduled
            if each.num_steps > 1 and each.sequence_id not in stopped
        )
        self.step = Step(step_id=self.step.step_id + 1, scheduled=scheduled)
        self._num_left -= 1
        if self._num_left > 1 and (is_recalled or not scheduled):
            self._num_left = 1
            return True
        return False
