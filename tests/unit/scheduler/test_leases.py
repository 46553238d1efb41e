"""Tests of leases: a worker runs steps by itself while no request waits, and is recalled when one arrives or leaves."""

from dataclasses import replace

import pytest

from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.step_result import StepResult
from scheduler.errors import WorkerProtocolError
from scheduler.steps.step_times import work_of
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.plan_worker import EOS, PlanWorker, expected_output
from tests.unit.scheduler.test_loop import System, expected, request

Leased = tuple[System, AttachedWorker, PlanWorker]


def leased_system(max_new_tokens: int = 1) -> Leased:
    system = System(max_lease_steps=8, num_pages=48, max_new_tokens=max_new_tokens)
    worker = system.attach()
    return system, worker, system.fakes[worker]


@pytest.fixture(params=[1, 4], ids=["one token a step", "up to four"])
def leased(request: pytest.FixtureRequest) -> Leased:
    return leased_system(request.param)


def submit_together(system: System, *requests: InferenceRequest) -> None:
    for each in requests:
        system.loop.requests.submit_request(each, system.client)
    system.clock.run_soon()


def leases(fake: PlanWorker) -> list[tuple[int, int]]:
    """Return the first step id and the number of steps of each plan that computes something."""
    return [(plan.step_id, plan.max_steps) for plan in fake.plans if plan.scheduled]


def test_one_plan_stands_for_many_steps_and_each_step_brings_its_token() -> None:
    system, worker, fake = leased_system()
    system.submit(request(max_tokens=20))
    for num_tokens in range(1, 21):
        system.run_step(worker)
        assert len(system.client.tokens["r", 0]) == num_tokens
    assert system.client.tokens["r", 0] == expected(request(), 20)
    # The step of the prompt samples the first of twenty tokens.
    assert leases(fake) == [(1, 1), (2, 8), (10, 8), (18, 3)]
    assert not fake.recalled


def test_the_next_plan_is_there_before_a_lease_runs_out(leased: Leased) -> None:
    system, worker, _ = leased
    system.submit(request(max_tokens=30))
    most = worker.step_limits.max_new_tokens
    while len(system.client.tokens["r", 0]) < 30 - 2 * most:
        system.run_step(worker)
        assert len(worker.steps.unanswered) == 2
    system.run(worker)
    assert system.client.tokens["r", 0] == expected(request(), 30)


@pytest.mark.parametrize("num_steps", range(9))
def test_at_most_three_steps_go_before_a_newcomer(leased: Leased, num_steps: int) -> None:
    system, worker, fake = leased
    system.submit(request("old", max_tokens=40))
    for _ in range(1 + num_steps):
        system.run_step(worker)
    system.submit(request("new", max_tokens=9, first_token=20))
    assert len(fake.recalled) <= 1
    # Two steps were in flight. If the first of them comes before a lease, the lease begins with two steps of its own.
    for _ in range(4):
        system.run_step(worker)
    assert system.client.tokens["new", 0]
    system.run(worker)
    assert system.client.tokens["old", 0] == expected(request(), 40)
    assert system.client.tokens["new", 0] == expected(request(first_token=20), 9)


def test_who_leaves_is_taken_out_and_the_others_go_on(leased: Leased) -> None:
    system, worker, fake = leased
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


def test_a_deadline_recalls_too(leased: Leased) -> None:
    system, worker, fake = leased
    system.submit(replace(request(max_tokens=40), timeout_s=5.0))
    for _ in range(3):
        system.run_step(worker)
    system.clock.advance(5.0)
    assert fake.recalled and system.client.failed["r"]
    system.run(worker)
    assert worker.pool.num_used == 0


def test_a_sequence_that_ends_by_itself_recalls_nothing(leased: Leased) -> None:
    system, worker, fake = leased
    ending = request("ending", prompt=6, max_tokens=40, first_token=2)
    ending = replace(ending, sampling=replace(ending.sampling, ignore_eos=False))
    length = len(expected_output(list(ending.prompt_token_ids), max_tokens=40, vocab_size=50, ignore_eos=False))
    assert length < 40
    long, short = request("long", max_tokens=40, first_token=20), request("short", max_tokens=6, first_token=30)
    submit_together(system, ending, long, short)
    system.run(worker)
    # `short` continues if its last step returned fewer tokens than it could have.
    assert worker.step_limits.max_new_tokens > 1 or not fake.recalled
    assert system.client.tokens["ending", 0][-1] == EOS and len(system.client.tokens["ending", 0]) == length
    assert system.client.tokens["long", 0] == expected(request(first_token=20), 40)
    assert system.client.tokens["short", 0] == expected(request(first_token=30), 6)
    assert worker.pool.num_used == 0


def test_a_lease_that_nobody_is_left_in_ends(leased: Leased) -> None:
    system, worker, fake = leased
    ending = request(prompt=6, max_tokens=40, first_token=2)
    system.submit(replace(ending, sampling=replace(ending.sampling, ignore_eos=False)))
    num_steps = 0
    while fake.queue:
        system.run_step(worker)
        num_steps += 1
    # Only the step that was in flight after the last token runs as well.
    assert num_steps <= len(system.client.tokens["r", 0]) + 2
    assert worker.steps.lease is None and not worker.is_busy


def test_a_recall_that_comes_too_late_does_not_shorten_the_next_lease() -> None:
    system, worker, fake = leased_system()
    system.submit(request(max_tokens=40))
    system.run_step(worker)
    fake.send_recall(fake.plans[-1].step_id - 1)
    system.run(worker)
    assert [num_steps for _, num_steps in leases(fake)] == [1, 8, 8, 8, 8, 7]


def test_steps_of_a_lease_are_answered_in_turn(leased: Leased) -> None:
    system, worker, fake = leased
    system.submit(request(max_tokens=40))
    system.run_step(worker)
    fake.run_step()
    late = fake.run_step()
    with pytest.raises(WorkerProtocolError, match=r"the result of step 3 \(expected: step 2\)"):
        system.loop.apply_result(worker, late)
    with pytest.raises(WorkerProtocolError, match="step 2 has no token for sequence"):
        system.loop.apply_result(worker, StepResult(step_id=2, sampled=()))


def test_pages_ahead_are_for_all_that_the_steps_of_a_lease_may_bring() -> None:
    system, worker, fake = leased_system(max_new_tokens=4)
    system.submit(request(prompt=6, max_tokens=50))
    system.run_step(worker)
    [leased] = fake.plans[-1].scheduled
    assert (leased.start, leased.max_start, leased.max_new_tokens, leased.num_steps) == (6, 6, 4, 8)
    [sequence] = worker.running
    # Two of its steps are in flight and six follow. 6 tokens are computed, and at most 32 will be.
    assert (sequence.computation.num_computed, len(sequence.computation.block_table)) == (
        6 + 2 * 4,
        -(-(6 + 8 * 4) // 4),
    )
    assert worker.steps.reach(sequence) == 7 + 8 * 4


def test_a_free_sequence_has_its_pages_and_work_beside_a_constrained_one() -> None:
    system, worker, fake = leased_system(max_new_tokens=4)
    free = request("free", prompt=6, max_tokens=50, first_token=20)
    free = replace(free, sampling=replace(free.sampling, constraint=None))
    submit_together(system, request("guided", prompt=6, max_tokens=50), free)
    system.run_step(worker)
    assert [(each.max_new_tokens, each.num_steps) for each in fake.plans[-1].scheduled] == [(4, 8), (1, 8)]
    assert [len(each.computation.block_table) for each in worker.running] == [-(-(6 + 8 * 4) // 4), -(-(6 + 8) // 4)]
    system.run(worker)
    assert system.client.tokens["guided", 0] == expected(request(), 50)
    assert system.client.tokens["free", 0] == expected(free, 50)


def test_promised_tokens_that_do_not_come_are_no_work() -> None:
    system, worker, fake = leased_system(max_new_tokens=4)
    system.submit(request(prompt=6, max_tokens=50))
    system.run_step(worker)
    for num_tokens in (1, 3, 4):
        fake.count_tokens = lambda most, num=num_tokens: num  # type: ignore[misc]
        [sequence], step = worker.running, worker.steps.unanswered[0]
        # A worker that is behind the most that was promised has a shorter context too, which counts little.
        promised, came = (
            work_of([(len(sequence.token_ids) - 1, 4)]),
            work_of([(len(sequence.token_ids) - 1, num_tokens)]),
        )
        result = fake.run_step()
        assert step.work_done(result) == step.work - (promised - came)
        system.loop.apply_result(worker, result)
        system.clock.run_soon()


def test_a_lease_that_leaves_out_a_sequence_which_is_not_at_its_end_is_recalled() -> None:
    system, worker, fake = leased_system(max_new_tokens=4)
    fake.count_tokens = lambda most: 1
    submit_together(system, request("short", max_tokens=9), request("long", max_tokens=50, first_token=20))
    system.run_step(worker)
    # After its first token, four steps may return the eight tokens that `short` has left. They return four.
    assert [planned.num_steps for planned in fake.plans[-1].scheduled] == [4, 8]
    for _ in range(3):
        assert not fake.recalled
        system.run_step(worker)
    assert fake.recalled == [fake.plans[-1].step_id]
    for _ in range(3):
        system.run_step(worker)
    assert "short" in {planned.sequence.request_id for planned in fake.plans[-1].scheduled}
    system.run(worker)
    assert system.client.tokens["short", 0] == expected(request(), 9)
    assert system.client.tokens["long", 0] == expected(request(first_token=20), 50)


def test_a_lease_ends_before_a_sequence_that_surely_has_not_ended_runs_out_of_steps() -> None:
    system, worker, fake = leased_system(max_new_tokens=4)
    submit_together(system, request("short", max_tokens=12), request("long", max_tokens=50, first_token=20))
    system.run_step(worker)
    # Eleven tokens take five full steps, and a sixth with one token.
    assert [planned.num_steps for planned in fake.plans[-1].scheduled] == [5, 5]
