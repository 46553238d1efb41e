"""Tests of the steps of one message, and of when a lease ends."""

from collections import deque

import pytest

from pagoda.wire.step_result import SampledTokens, StepResult
from protos.v1 import worker_pb2
from worker.errors import StepError
from worker.steps.lease import Lease
from worker.steps.step import ScheduledSequence, Step
from worker.steps.step_messages import step_from_proto


def decoding(
    sequence_id: int, start: int, num_steps: int, *pages: int, most: int = 1, max_start: int | None = None
) -> ScheduledSequence:
    max_start = start if max_start is None else max_start
    return ScheduledSequence(sequence_id, start, max_start, 1, pages, max_new_tokens=most, num_steps=num_steps)


class RunningLease:
    """A lease of which `depth` steps are begun before the first of them is finished."""

    def __init__(self, step: Step, depth: int) -> None:
        self.lease = Lease(step)
        self._depth = depth
        self.begun: deque[Step] = deque()
        self.begin()

    def begin(self) -> None:
        while len(self.begun) < self._depth and not self.lease.is_over:
            self.begun.append(self.lease.advance())

    def finish(self, *stopped: int, is_recalled: bool = False) -> bool:
        """Finish the oldest step and return True if the next one is announced as the last."""
        step = self.begun.popleft()
        sampled = (SampledTokens(each, attempt=1, token_ids=(0,), stopped=True) for each in stopped)
        result = StepResult(step_id=step.step_id, sampled=tuple(sampled))
        next_is_last = self.lease.observe(result, is_recalled=is_recalled)
        self.begin()
        return next_is_last

    @property
    def is_over(self) -> bool:
        return not self.begun


DEPTHS = pytest.mark.parametrize("depth", [1, 2], ids=["depth 1", "late"])


@DEPTHS
def test_a_message_of_one_step_is_over_with_it(depth: int) -> None:
    lease = RunningLease(Step(step_id=4, scheduled=(decoding(1, 9, 1),)), depth)
    assert not lease.is_over
    assert not lease.finish(is_recalled=True)
    assert lease.is_over


@DEPTHS
def test_each_sequence_takes_part_as_long_as_it_was_leased_to(depth: int) -> None:
    first = Step(step_id=4, scheduled=(decoding(1, 9, 3, 7), decoding(2, 5, 1), decoding(3, 0, 2)), max_steps=3)
    lease = RunningLease(first, depth)
    assert lease.begun[0] == first
    assert not lease.finish()
    # Pages are granted only with the first step.
    assert lease.begun[0] == Step(step_id=5, scheduled=(decoding(1, 10, 2), decoding(3, 1, 1)))
    assert not lease.finish()
    assert lease.begun[0] == Step(step_id=6, scheduled=(decoding(1, 11, 1),))
    assert not lease.finish()
    assert lease.is_over


@DEPTHS
def test_each_step_allows_one_token_more_at_the_least_and_all_that_were_promised_at_the_most(depth: int) -> None:
    step = Step(step_id=4, scheduled=(decoding(1, 9, 3, 7, most=4, max_start=12),), max_steps=3)
    lease = RunningLease(step, depth)
    lease.finish()
    assert lease.begun[0].scheduled == (decoding(1, 10, 2, most=4, max_start=16),)
    lease.finish()
    assert lease.begun[0].scheduled == (decoding(1, 11, 1, most=4, max_start=20),)


@DEPTHS
def test_who_was_ended_by_a_token_is_left_out_of_what_is_begun_from_then_on(depth: int) -> None:
    lease = RunningLease(Step(step_id=4, scheduled=(decoding(1, 9, 8), decoding(2, 5, 8)), max_steps=8), depth)
    assert not lease.finish(1)
    assert (
        [step.scheduled for step in lease.begun]
        == [
            (decoding(1, 10, 7), decoding(2, 6, 7)),
            (decoding(2, 7, 6),),
        ]
        if depth == 2
        else [(decoding(2, 6, 7),)]
    )


@DEPTHS
@pytest.mark.parametrize("is_recalled", [True, False], ids=["recalled", "all stopped"])
def test_it_ends_early_with_one_more_step(is_recalled: bool, depth: int) -> None:
    lease = RunningLease(Step(step_id=4, scheduled=(decoding(1, 9, 8),), max_steps=8), depth)
    assert lease.finish(*([] if is_recalled else [1]), is_recalled=is_recalled)
    assert [step.step_id for step in lease.begun] == [5]
    assert not lease.finish(is_recalled=is_recalled)
    assert lease.is_over


@DEPTHS
def test_what_ends_by_itself_need_not_be_said(depth: int) -> None:
    lease = RunningLease(Step(step_id=4, scheduled=(decoding(1, 9, 2),), max_steps=2), depth)
    assert not lease.finish(is_recalled=True)
    assert not lease.finish(is_recalled=True)
    assert lease.is_over


def test_only_sequences_that_decode_can_be_leased_to() -> None:
    prefilling = worker_pb2.ScheduledSequence(sequence_id=1, start=0, num_tokens=5, max_new_tokens=1)
    with pytest.raises(StepError, match="not all of its sequences decode"):
        step_from_proto(worker_pb2.Step(step_id=1, scheduled=[prefilling], max_steps=2))
