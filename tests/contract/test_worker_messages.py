"""Tests that scheduler and worker convert steps and results to messages and back without a change."""

import pytest

from kvcache.page_pool import PageId
from pagoda.wire.constraint import Constraint
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from protos.v1 import worker_pb2
from scheduler.queue.new_sequences import make_sequences
from scheduler.rpc import worker_messages
from scheduler.rpc.worker_bounds import result_problem
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from tests.fakes.plan_worker import worker_info
from worker.errors import StepError
from worker.steps.step import ScheduledSequence
from worker.steps.step_messages import step_from_proto


def sequence(sequence_id: int, grammar: str = "") -> Sequence:
    sampling = SamplingParams(constraint=Constraint(grammar=grammar) if grammar else None)
    request = InferenceRequest(request_id="r", model="", prompt_token_ids=[5, 6, 7], sampling=sampling)
    return make_sequences(request, worker_info(), first_id=sequence_id, now_s=0.0)[0]


@pytest.mark.parametrize("most", [1, 4])
def test_a_plan_arrives_whole(most: int) -> None:
    prefilling, decoding, growing, late = map(sequence, (1, 2, 3, 2**40))
    pages = (PageId(7), PageId(0))
    plan = StepPlan(
        step_id=9,
        finished_sequence_ids=(4, 5),
        new_sequences=(prefilling,),
        scheduled=(
            PlannedSequence(prefilling, 0, 0, num_tokens=2, new_page_ids=pages, max_new_tokens=0),
            PlannedSequence(decoding, 0, 0, num_tokens=1, new_page_ids=(), max_new_tokens=most),
            PlannedSequence(growing, 16, 15 + most, num_tokens=1, new_page_ids=pages[:1], max_new_tokens=most),
            PlannedSequence(late, 70_000, 70_000, num_tokens=1, new_page_ids=(), max_new_tokens=1),
        ),
    )
    message = worker_messages.plan_to_proto(plan, session_id=3)
    assert len(message.scheduled) == len(message.decode_batch.starts) == 2
    # The field is absent where each sequence gets one token.
    assert list(message.decode_batch.max_new_tokens) == ([most, 1] if most > 1 else [])
    step = step_from_proto(message)
    assert (step.step_id, step.finished_sequence_ids) == (9, (4, 5))
    assert [(new.sequence_id, new.token_ids) for new in step.new_sequences] == [(1, (5, 6, 7))]
    assert set(step.scheduled) == {
        ScheduledSequence(
            each.sequence.sequence_id,
            each.start,
            each.max_start,
            each.num_tokens,
            each.new_page_ids,
            each.max_new_tokens,
        )
        for each in plan.scheduled
    }


@pytest.mark.parametrize("max_starts", [(16, 4), (22, 10)], ids=["known", "a range"])
def test_a_lease_arrives_whole(max_starts: tuple[int, int]) -> None:
    growing, short = map(sequence, (1, 2))
    plan = StepPlan(
        step_id=9,
        finished_sequence_ids=(),
        new_sequences=(),
        scheduled=(
            PlannedSequence(growing, 16, max_starts[0], 1, (PageId(3),), max_new_tokens=3, num_steps=8),
            PlannedSequence(short, 4, max_starts[1], 1, (), max_new_tokens=2, num_steps=2),
        ),
        max_steps=8,
    )
    step = step_from_proto(worker_messages.plan_to_proto(plan, session_id=3))
    assert step.max_steps == 8
    assert step.scheduled == (
        ScheduledSequence(1, 16, max_starts[0], 1, (PageId(3),), max_new_tokens=3, num_steps=8),
        ScheduledSequence(2, 4, max_starts[1], 1, (), max_new_tokens=2, num_steps=2),
    )


def test_equal_constraints_travel_once() -> None:
    new = tuple(sequence(number, grammar) for number, grammar in enumerate(("a", "", "b", "a"), start=1))
    plan = StepPlan(step_id=1, finished_sequence_ids=(), new_sequences=new, scheduled=())
    message = worker_messages.plan_to_proto(plan, session_id=3)
    assert [constraint.grammar for constraint in message.constraints] == ["a", "b"]
    assert not any(each.sampling.HasField("constraint") for each in message.new_sequences)
    arrived = [each.sampling for each in step_from_proto(message).new_sequences]
    assert arrived == [each.sampling for each in new]
    assert arrived[0].constraint is arrived[3].constraint


def test_a_constraint_that_was_not_sent_is_refused() -> None:
    message = worker_pb2.Step(new_sequences=[worker_pb2.NewSequence(sequence_id=8, constraint_number=1)])
    with pytest.raises(StepError, match="sequence 8 has constraint_number 1, but the step has 0 constraints"):
        step_from_proto(message)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(StepError, match="1 sequences, 0 starts"):
        step_from_proto(worker_pb2.Step(decode_batch=worker_pb2.DecodeBatch(sequence_ids=[1])))
    batch = worker_pb2.SampledBatch(sequence_ids=[1], attempts=[1], token_ids=[1, 2])
    problem = result_problem(worker_pb2.StepResult(sampled_batch=batch), worker_info().limits)
    assert problem is not None and "columns of 1, 1, 2 entries" in problem
