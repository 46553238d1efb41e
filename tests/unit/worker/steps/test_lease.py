"""Which steps a message stands for, and when they end."""

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


def result(step: Step, *, stopped: tuple[int, ...] = ()) -> StepResult:
    sampled = (SampledTokens(each, attempt=1, token_ids=(0,), stopped=True) for each in stopped)
    return StepResult(step_id=step.step_id, sampled=tuple(sampled))


def test_a_message_of_one_step_is_over_with_it() -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 1),)))
    assert not lease.is_over
    assert not lease.go_on(result(lease.step), is_recalled=True)
    assert lease.is_over


def test_each_sequence_takes_part_as_long_as_it_was_leased_to() -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 3, 7), decoding(2, 5, 1), decoding(3, 0, 2)), max_steps=3))
    assert not lease.go_on(result(lease.step), is_recalled=False)
    # Pages are granted with the first step, once.
    assert lease.step == Step(step_id=5, scheduled=(decoding(1, 10, 2), decoding(3, 1, 1)))
    assert not lease.go_on(result(lease.step), is_recalled=False)
    assert lease.step == Step(step_id=6, scheduled=(decoding(1, 11, 1),))
    assert not lease.go_on(result(lease.step), is_recalled=False)
    assert lease.is_over


def test_each_step_allows_one_token_more_at_the_least_and_all_that_were_promised_at_the_most() -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 3, 7, most=4, max_start=12),), max_steps=3))
    lease.go_on(result(lease.step), is_recalled=False)
    assert lease.step.scheduled == (decoding(1, 10, 2, most=4, max_start=16),)
    lease.go_on(result(lease.step), is_recalled=False)
    assert lease.step.scheduled == (decoding(1, 11, 1, most=4, max_start=20),)


def test_who_was_ended_by_a_token_is_left_out() -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 8), decoding(2, 5, 8)), max_steps=8))
    assert not lease.go_on(result(lease.step, stopped=(1,)), is_recalled=False)
    assert lease.step.scheduled == (decoding(2, 6, 7),)


@pytest.mark.parametrize("is_recalled", [True, False], ids=["recalled", "nobody goes on"])
def test_it_ends_early_with_one_more_step(is_recalled: bool) -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 8),), max_steps=8))
    assert lease.go_on(result(lease.step, stopped=() if is_recalled else (1,)), is_recalled=is_recalled)
    assert len(lease.step.scheduled) == is_recalled and not lease.is_over
    assert not lease.go_on(result(lease.step), is_recalled=is_recalled)
    assert lease.is_over


def test_what_ends_by_itself_need_not_be_said() -> None:
    lease = Lease(Step(step_id=4, scheduled=(decoding(1, 9, 2),), max_steps=2))
    assert not lease.go_on(result(lease.step), is_recalled=True)
    assert not lease.go_on(result(lease.step), is_recalled=True)
    assert lease.is_over


def test_only_sequences_that_decode_can_be_leased_to() -> None:
    prefilling = worker_pb2.ScheduledSequence(sequence_id=1, start=0, num_tokens=5, max_new_tokens=1)
    with pytest.raises(StepError, match="do not decode"):
        step_from_proto(worker_pb2.Step(step_id=1, scheduled=[prefilling], max_steps=2))
