"""The engine's side of a session, run to its end on the test's own thread: there is no event loop that it could wait for."""

from pagoda.telemetry.tracing import SILENT_TRACER
from pagoda.wire.step_result import StepResult
from protos.v1 import worker_pb2
from worker.steps.held_blocks import HeldBlocks
from worker.steps.step import Step
from worker.steps.step_loop import FailedStep, SessionEnd, StepLoop


class CountingEngine:
    """Knows no sequences. Step 13 raises."""

    def __init__(self) -> None:
        self.step_ids: list[int] = []

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
    return StepLoop(HeldBlocks(page_size=16), SILENT_TRACER, outcomes.append)


def test_steps_and_leases_run_one_behind_the_other_until_the_end_that_was_put() -> None:
    engine, outcomes = CountingEngine(), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    loop.put(worker_pb2.Step(step_id=1))
    loop.put(lease(2, num_steps=3))
    loop.put(worker_pb2.Step(step_id=5))
    loop.put(SessionEnd.DRAINED)
    loop.put(worker_pb2.Step(step_id=6))
    assert loop.run(engine) is SessionEnd.DRAINED
    assert engine.step_ids == [1, 2, 3, 4, 5]
    assert outcomes == [StepResult(step_id=step_id) for step_id in engine.step_ids]
    assert (loop.last_step_id, loop.step_is_running) == (5, False)


def test_behind_a_step_that_raises_none_is_run() -> None:
    engine, outcomes = CountingEngine(), list[StepResult | FailedStep]()
    loop = make_loop(outcomes)
    loop.put(worker_pb2.Step(step_id=13))
    loop.put(worker_pb2.Step(step_id=14))
    assert loop.run(engine) is SessionEnd.FAILED
    assert engine.step_ids == [13]
    assert outcomes == [FailedStep(13, "ValueError: an unlucky step")]


def test_an_end_at_once_drops_what_waits_and_the_rest_of_a_lease() -> None:
    engine = CountingEngine()
    loop = StepLoop(HeldBlocks(page_size=16), SILENT_TRACER, lambda _: loop.end_now(SessionEnd.STOPPED))
    loop.put(lease(1, num_steps=8))
    loop.put(worker_pb2.Step(step_id=9))
    assert loop.run(engine) is SessionEnd.STOPPED
    assert engine.step_ids == [1]
