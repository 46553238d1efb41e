"""Tests of the watch that distinguishes a hung worker from a slow one."""

from collections.abc import Iterator

import pytest

from scheduler.faults.worker_watch import Patience, Task, WorkerWatch
from scheduler.steps.step_times import StepTimes, work_of

PATIENCE = Patience(silence_s=4.0, step_time_multiple=10.0, stalled_step_s=120.0)
TICK_S = 0.5
WORK = work_of([(100, 1)])


def watch_after(num_steps: int, step_s: float) -> WorkerWatch:
    watch = WorkerWatch(PATIENCE, TICK_S)
    for _ in range(num_steps):
        watch.record_step_time(WORK, step_s)
    return watch


def lost_after_s(watch: WorkerWatch, task: Task | None) -> float:
    """Return the seconds after which the watch reports a worker as lost, although it sends heartbeats."""
    for number in range(1000):
        watch.record_sign_of_life()
        if watch.tick(task):
            return number * TICK_S
    raise AssertionError("never")


def test_one_that_says_nothing_is_lost_whether_it_computes_or_not() -> None:
    for task in (None, Task(1, WORK)):
        watch = watch_after(20, 0.01)
        reasons = [watch.tick(task) for _ in range(9)]
        assert reasons == [None] * 8 + ["the worker sent nothing for 4.5 s"]


def test_one_that_beats_and_has_nothing_to_do_is_never_lost() -> None:
    with pytest.raises(AssertionError, match="never"):
        lost_after_s(watch_after(20, 0.01), None)


@pytest.mark.parametrize(("step_s", "expected_s"), [(0.01, 4.0), (0.4, 4.0), (2.0, 20.0), (60.0, 120.0)])
def test_a_step_may_take_a_multiple_of_what_such_steps_took(step_s: float, expected_s: float) -> None:
    assert lost_after_s(watch_after(20, step_s), Task(7, WORK)) == expected_s + TICK_S


def test_first_steps_may_take_as_long_as_any() -> None:
    assert lost_after_s(watch_after(3, 0.01), Task(4, WORK)) == PATIENCE.stalled_step_s + TICK_S


def test_a_load_may_take_as_long_as_any_step() -> None:
    assert lost_after_s(watch_after(20, 0.01), Task(0, None)) == PATIENCE.stalled_step_s + TICK_S


def test_steps_that_end_are_not_added_up() -> None:
    watch = watch_after(20, 0.01)
    for step_id in range(200):
        watch.record_sign_of_life()
        assert watch.tick(Task(step_id // 8, WORK)) is None


def test_nothing_is_predicted_from_a_few_steps_or_from_those_that_only_tell() -> None:
    times = StepTimes()
    for _ in range(7):
        times.learn_step_time(WORK, 1.0)
    for _ in range(20):
        times.learn_step_time(0, 0.0)
    assert times.predict_s(WORK) is None
    times.learn_step_time(WORK, 1.0)
    assert times.predict_s(WORK) == pytest.approx(1.0)


def steps() -> Iterator[tuple[int, float]]:
    """Yield the work and the time of steps, on a machine with a fixed cost, a cost per token, and a cost per token of context."""
    for chunks in ([(0, 16)], [(500, 1)] * 4, [(0, 64)], [(900, 1)] * 8):
        seconds = 0.005 + sum(0.001 * num_tokens * (1 + start / 4000) for start, num_tokens in chunks)
        yield work_of(chunks), seconds


def test_a_larger_step_than_any_before_is_never_thought_to_be_quicker_than_it_is() -> None:
    times = StepTimes()
    for _ in range(10):
        for work, seconds in steps():
            times.learn_step_time(work, seconds)
    for num_tokens, context in ((512, 0), (512, 4096), (2048, 30_000)):
        predicted = times.predict_s(work_of([(context, num_tokens)]))
        true_s = 0.005 + 0.001 * num_tokens * (1 + context / 4000)
        assert predicted is not None and true_s / 2 < predicted < 20 * true_s


def test_a_machine_that_becomes_slow_is_followed() -> None:
    times = StepTimes()
    for seconds in [0.1] * 10 + [1.0] * 12:
        times.learn_step_time(WORK, seconds)
    assert times.predict_s(WORK) == pytest.approx(1.0, rel=0.1)
