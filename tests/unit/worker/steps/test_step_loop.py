"""Tests of the engine's side of a session, run on the test's own thread, without an event loop to wait for."""

import pytest
from opentelemetry.trace import NoOpTracer

from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from tests.fakes.step_runner import WholeStepEngine
from worker.errors import DeviceLostError
from worker.steps.engine import BegunStep
from worker.steps.held_blocks import HeldBlocks
from worker.steps.step import Step
from worker.steps.step_loop import FailedStep, SessionEnd, StepLoop


class CountingEngine(WholeStepEngine):
    """An engine without sequences. Step 13 raises when it is finished, step 7 when it is begun."""

    def __init__(self, max_in_flight: int = 1) -> None:
        self.max_in_flight = max_in_flight
        self.begun: list[int] = []
        self.step_ids: list[int] = []
        """Ids of the finished steps."""

    def begin_step(self, step: Step) -> BegunStep:
        if step.step_id == 7:
            raise ValueError("an unlucky beginning")
        self.begun.append(step.step_id)
        assert len(self.begun) - len(self.step_ids) <= self.max_in_flight
        return super().begin_step(step)

    def run_step(self, step: Step) -> StepResult:
        self.step_ids.append(step.step_id)
        if step.step_id == 13:
            raise ValueError("an unlucky step")
        return StepResult(step_id=step.step_id)

    def reset(self) -> None:
        raise AssertionError("the session's caller resets")


def lease(step_id: int, num_steps: int) -> worker_pb2.Step:
    batch = worker_pb2.DecodeBatch(sequence_ids=[1], starts=[3], num_steps=[num_steps])
    return worker_pb2.Step(step_id=step_id, decode_batch=batch, max_steps=num_steps)


def make_loop(outcomes: list[StepResult | FailedStep]) -> StepLoop:
    return StepLoop(HeldBlocks(page_size=16), NoOpTracer(), outcomes.append)


DEPTHS = pytest.mark.parametrize("depth", [1, 2], ids=["depth 1", "late"])


@DEPTHS
def test_steps_and_leases_run_one_behind_the_other_until_the_end_that_was_put(depth: int) -> None:
    engine, outcomes = CountingEngine(depth), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    loop.put(worker_pb2.Step(step_id=1))
    loop.put(lease(2, num_steps=3))
    loop.put(worker_pb2.Step(step_id=5))
    loop.put(SessionEnd.DRAINED)
    loop.put(worker_pb2.Step(step_id=6))
    assert loop.run(engine) is SessionEnd.DRAINED
    assert engine.begun == engine.step_ids == [1, 2, 3, 4, 5]
    assert outcomes == [StepResult(step_id=step_id) for step_id in engine.step_ids]
    assert (loop.last_step_id, loop.step_is_running) == (5, False)


@DEPTHS
def test_as_many_steps_are_begun_as_the_engine_takes(depth: int) -> None:
    engine, num_begun = CountingEngine(depth), list[int]()
    loop = StepLoop(HeldBlocks(page_size=16), NoOpTracer(), lambda _: num_begun.append(len(engine.begun)))
    loop.put(worker_pb2.Step(step_id=1))
    loop.put(lease(2, num_steps=3))
    loop.put(SessionEnd.DRAINED)
    loop.run(engine)
    assert num_begun == [min(4, finished + depth - 1) for finished in (1, 2, 3, 4)]


def test_a_third_step_is_never_begun() -> None:
    engine = CountingEngine(max_in_flight=8)
    loop = StepLoop(
        HeldBlocks(page_size=16), NoOpTracer(), lambda _: most.append(len(engine.begun) - len(engine.step_ids))
    )
    most: list[int] = []
    loop.put(lease(1, num_steps=6))
    loop.put(SessionEnd.DRAINED)
    loop.run(engine)
    assert most == [1, 1, 1, 1, 1, 0]


@DEPTHS
def test_behind_a_step_that_raises_no_result_is_sent(depth: int) -> None:
    engine, outcomes = CountingEngine(depth), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    for step_id in (12, 13, 14):
        loop.put(worker_pb2.Step(step_id=step_id))
    assert loop.run(engine) is SessionEnd.FAILED
    assert engine.step_ids == [12, 13]
    assert engine.begun == [12, 13, 14][: 1 + depth]
    assert outcomes == [StepResult(step_id=12), FailedStep(13, "ValueError: an unlucky step")]
    assert not loop.step_is_running


@DEPTHS
def test_a_step_that_cannot_be_begun_fails_behind_those_that_are(depth: int) -> None:
    engine, outcomes = CountingEngine(depth), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    for step_id in (6, 7, 8):
        loop.put(worker_pb2.Step(step_id=step_id))
    assert loop.run(engine) is SessionEnd.FAILED
    assert engine.step_ids == [6]
    assert outcomes == [StepResult(step_id=6), FailedStep(7, "ValueError: an unlucky beginning")]


def test_of_two_steps_that_fail_the_first_one_is_reported() -> None:
    engine, outcomes = CountingEngine(max_in_flight=2), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    loop.put(worker_pb2.Step(step_id=13))
    loop.put(worker_pb2.Step(step_id=7))
    assert loop.run(engine) is SessionEnd.FAILED
    assert outcomes == [FailedStep(13, "ValueError: an unlucky step")]


@DEPTHS
def test_an_end_at_once_drops_what_waits_and_the_rest_of_a_lease(depth: int) -> None:
    engine = CountingEngine(depth)
    loop = StepLoop(HeldBlocks(page_size=16), NoOpTracer(), lambda _: loop.end_now(SessionEnd.STOPPED))
    loop.put(lease(1, num_steps=8))
    loop.put(worker_pb2.Step(step_id=9))
    assert loop.run(engine) is SessionEnd.STOPPED
    assert engine.step_ids == [1, 2][:depth]


@DEPTHS
def test_a_recalled_lease_ends_with_the_step_behind_the_result_that_says_so(depth: int) -> None:
    engine, said = CountingEngine(depth), list[tuple[int, bool]]()

    def deliver(outcome: StepResult | FailedStep) -> None:
        assert isinstance(outcome, StepResult)
        said.append((outcome.step_id, outcome.next_is_last))
        if outcome.step_id == 3:
            loop.recalled_step_id = 1

    loop = StepLoop(HeldBlocks(page_size=16), NoOpTracer(), deliver)
    loop.put(lease(1, num_steps=64))
    loop.put(SessionEnd.DRAINED)
    assert loop.run(engine) is SessionEnd.DRAINED
    assert said == [(1, False), (2, False), (3, False), (4, True), (5, False)]
    assert engine.begun == [1, 2, 3, 4, 5]


def test_a_lost_device_ends_the_loop_itself() -> None:
    class LostEngine(CountingEngine):
        def run_step(self, step: Step) -> StepResult:
            raise DeviceLostError("it fell off the bus")

    outcomes = list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    loop.put(worker_pb2.Step(step_id=1))
    with pytest.raises(DeviceLostError):
        loop.run(LostEngine())
    assert outcomes == []
