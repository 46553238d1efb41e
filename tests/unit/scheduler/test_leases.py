"""While nobody waits a worker goes on by itself; it is recalled when somebody comes or leaves."""

from dataclasses import replace

import pytest

from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.step_result import StepResult
from scheduler.errors import WorkerProtocolError
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.plan_worker import EOS, PlanWorker, expected_output
from tests.unit.scheduler.test_loop import System, expected, request


def leased_system(num_pages: int = 32) -> tuple[System, AttachedWorker, PlanWorker]:
    system = System(max_lease_steps=8, num_pages=num_pages)
    worker = system.attach()
    return system, worker, system.fakes[worker]


def submit_together(system: System, *requests: InferenceRequest) -> None:
    for each in requests:
        system.loop.requests.submit_request(each, system.client)
    system.clock.run_soon()


def leases(fake: PlanWorker) -> list[tuple[int, int]]:
    """First step and number of steps of each plan, without one that only tells."""
    return [(plan.step_id, plan.max_steps) for plan in fake.plans if plan.scheduled]


def test_one_plan_stands_for_many_steps_and_each_step_brings_its_token() -> None:
    system, worker, fake = leased_system()
    system.submit(request(max_tokens=20))
    for num_tokens in range(1, 21):
        system.run_step(worker)
        assert len(system.client.tokens["r", 0]) == num_tokens
    assert system.client.tokens["r", 0] == expected(request(), 20)
    # The prompt samples the first of twenty tokens.
    assert leases(fake) == [(1, 1), (2, 8), (10, 8), (18, 3)]
    assert not fake.recalled


def test_the_next_plan_is_there_before_a_lease_runs_out() -> None:
    system, worker, _ = leased_system()
    system.submit(request(max_tokens=30))
    for _ in range(28):
        system.run_step(worker)
        assert len(worker.steps.unanswered) == 2
    system.run(worker)
    assert system.client.tokens["r", 0] == expected(request(), 30)


@pytest.mark.parametrize("num_steps", range(9))
def test_at_most_three_steps_go_before_a_newcomer(num_steps: int) -> None:
    system, worker, fake = leased_system()
    system.submit(request("old", max_tokens=40))
    for _ in range(1 + num_steps):
        system.run_step(worker)
    system.submit(request("new", max_tokens=9, first_token=20))
    assert len(fake.recalled) <= 1
    # Two were in flight; where the first of them stands before a lease, that begins with two of its own.
    for _ in range(4):
        system.run_step(worker)
    assert system.client.tokens["new", 0]
    system.run(worker)
    assert system.client.tokens["old", 0] == expected(request(), 40)
    assert system.client.tokens["new", 0] == expected(request(first_token=20), 9)


def test_who_leaves_is_taken_out_and_the_others_go_on() -> None:
    system, worker, fake = leased_system()
    submit_together(system, request("stays", max_tokens=40), request("leaves", max_tokens=40, first_token=20))
    for _ in range(4):
        system.run_step(worker)
    num_plans = len(fake.plans)
    system.loop.requests.cancel_request(system.client, "leaves")
    system.clock.run_soon()
    assert system.client.finished["leaves", 0].reason is FinishReason.ABORT
    assert fake.recalled == [fake.plans[-1].step_id]
    for _ in range(2):
        system.run_step(worker)
    assert len(fake.plans) == num_plans + 1 and len(fake.plans[-1].finished_sequence_ids) == 1
    system.run(worker)
    assert system.client.tokens["stays", 0] == expected(request(), 40)


def test_a_deadline_recalls_too() -> None:
    system, worker, fake = leased_system()
    system.submit(replace(request(max_tokens=40), timeout_s=5.0))
    for _ in range(3):
        system.run_step(worker)
    system.clock.advance(5.0)
    assert fake.recalled and system.client.failed["r"]
    system.run(worker)
    assert worker.pool.num_used == 0


def test_a_sequence_that_ends_by_itself_recalls_nothing() -> None:
    system, worker, fake = leased_system()
    ending = request("ending", prompt=6, max_tokens=40, first_token=2)
    ending = replace(ending, sampling=replace(ending.sampling, ignore_eos=False))
    length = len(expected_output(list(ending.prompt_token_ids), max_tokens=40, vocab_size=50, ignore_eos=False))
    assert length < 40
    long, short = request("long", max_tokens=40, first_token=20), request("short", max_tokens=6, first_token=30)
    submit_together(system, ending, long, short)
    system.run(worker)
    assert not fake.recalled
    assert system.client.tokens["ending", 0][-1] == EOS and len(system.client.tokens["ending", 0]) == length
    assert system.client.tokens["long", 0] == expected(request(first_token=20), 40)
    assert system.client.tokens["short", 0] == expected(request(first_token=30), 6)
    assert worker.pool.num_used == 0


def test_a_lease_that_nobody_is_left_in_ends() -> None:
    system, worker, fake = leased_system()
    ending = request(prompt=6, max_tokens=40, first_token=2)
    system.submit(replace(ending, sampling=replace(ending.sampling, ignore_eos=False)))
    num_steps = 0
    while fake.queue:
        system.run_step(worker)
        num_steps += 1
    # The step that was in flight behind the last token, and no more.
    assert num_steps <= len(system.client.tokens["r", 0]) + 2
    assert worker.steps.lease is None and not worker.is_busy


def test_a_recall_that_comes_too_late_does_not_shorten_the_next_lease() -> None:
    system, worker, fake = leased_system()
    system.submit(request(max_tokens=40))
    system.run_step(worker)
    fake.send_recall(fake.plans[-1].step_id - 1)
    system.run(worker)
    assert [num_steps for _, num_steps in leases(fake)] == [1, 8, 8, 8, 8, 7]


def test_steps_of_a_lease_are_answered_in_turn() -> None:
    system, worker, fake = leased_system()
    system.submit(request(max_tokens=40))
    system.run_step(worker)
    fake.run_step()
    late = fake.run_step()
    with pytest.raises(WorkerProtocolError, match="result of step 3 came, but step 2 was due"):
        system.loop.apply_result(worker, late)
    with pytest.raises(WorkerProtocolError, match="step 2 has no token for sequence"):
        system.loop.apply_result(worker, StepResult(step_id=2, sampled=()))
