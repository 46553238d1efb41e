"""Tests of the queue's drain rate, and of the queue loads that clients and gateways get."""

import pytest

from scheduler.queue.drain_rate import MAX_RETRY_S, MIN_RETRY_S, DrainRate
from scheduler.queue.fair_queue import MAX_TENANTS, OTHER_TENANTS, FairQueue, queue_loads
from tests.fakes.clock import FakeClock
from tests.unit.scheduler.queue.test_fairness import System


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rate(clock: FakeClock) -> DrainRate:
    """Return the drain rate of a queue from which one sequence ends every half second."""
    rate = DrainRate(clock.time)
    rate.start_interval()
    for _ in range(20):
        clock.advance(0.5)
        rate.record_end(somebody_waits=True)
    return rate


def test_a_longer_queue_takes_longer_within_bounds(rate: DrainRate) -> None:
    assert rate.per_s == 2.0
    assert rate.seconds_for(20) == pytest.approx(10, rel=0.1)
    assert rate.retry_after_s(1) == MIN_RETRY_S
    assert rate.retry_after_s(10_000) == MAX_RETRY_S
    assert rate.seconds_for(10_000) == pytest.approx(5000, rel=0.1)


def test_a_night_without_requests_changes_nothing(rate: DrainRate, clock: FakeClock) -> None:
    before = rate.per_s
    rate.record_end(somebody_waits=False)
    clock.advance(30_000)
    rate.start_interval()
    assert rate.per_s == before
    assert rate.seconds_for(20) == pytest.approx(10, rel=0.1)


def test_requests_that_did_not_hold_up_others_do_not_count(rate: DrainRate, clock: FakeClock) -> None:
    rate.record_end(somebody_waits=False)
    for _ in range(64):
        clock.advance(9)
        rate.record_end(somebody_waits=False)
    assert rate.per_s == 2.0


def test_a_queue_that_does_not_move_is_seen_before_anything_ends(clock: FakeClock) -> None:
    rate = DrainRate(clock.time)
    assert rate.retry_after_s(100) == MIN_RETRY_S
    rate.start_interval()
    clock.advance(5)
    assert rate.seconds_for(4) == 20


def test_each_tenant_has_a_row_and_too_many_share_one() -> None:
    system = System(max_step_sequences=1)
    system.ask("running")
    for number in range(MAX_TENANTS + 5):
        for _ in range(2 if number < MAX_TENANTS else 1):
            system.ask(f"tenant {number}")
    system.clock.advance(3)
    system.ask("tenant 0")
    rows = system.loop.queue_loads()
    assert len(rows) == MAX_TENANTS + 1
    assert sum(row.num_waiting for row in rows) == len(system.loop.waiting)
    by_tenant = {row.tenant: row for row in rows}
    assert (by_tenant["tenant 0"].num_waiting, by_tenant["tenant 0"].oldest_s) == (3, 3.0)
    assert by_tenant[OTHER_TENANTS].num_waiting == 5
    # With fair shares, the next sequence of each tenant comes before the second one of any tenant.
    assert sorted(row.next_position for row in rows) == list(range(1, MAX_TENANTS + 2))
    assert queue_loads(FairQueue(), now_s=1.0) == []
