"""Tests of the circuit breaker, with a fake clock."""

import pytest

from kvcache.breaker import BreakerState, CircuitBreaker


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def breaker(time: Time) -> CircuitBreaker:
    return CircuitBreaker(max_failures=3, first_pause_s=1.0, longest_pause_s=3.0, clock=time)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(3):
        assert breaker.admits()
        breaker.failed()
    return breaker


def test_it_opens_after_failures_in_a_row_only(breaker: CircuitBreaker) -> None:
    for _ in range(4):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    assert opened(breaker).state is BreakerState.OPEN
    assert not breaker.admits()


def test_after_the_pause_one_call_finds_out_for_all(breaker: CircuitBreaker, time: Time) -> None:
    opened(breaker)
    time.now_s = 1.0
    assert breaker.admits() and breaker.state is BreakerState.HALF_OPEN
    assert not breaker.admits()
    breaker.succeeded()
    assert breaker.admits() and breaker.admits()


def test_the_pause_doubles_up_to_a_limit_and_begins_anew(breaker: CircuitBreaker, time: Time) -> None:
    opened(breaker)
    for pause_s in (1.0, 2.0, 3.0, 3.0):
        time.now_s += pause_s - 0.01
        assert not breaker.admits()
        time.now_s += 0.01
        assert breaker.admits()
        breaker.failed()
    time.now_s += 3.0
    assert breaker.admits()
    breaker.succeeded()
    opened(breaker)
    time.now_s += 1.0
    assert breaker.admits()


def test_a_probe_that_was_abandoned_leaves_the_way_to_the_next(breaker: CircuitBreaker, time: Time) -> None:
    opened(breaker)
    time.now_s = 1.0
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.state is BreakerState.OPEN and breaker.admits()


def test_a_late_failure_from_before_it_opened_does_not_lengthen_the_pause(breaker: CircuitBreaker, time: Time) -> None:
    opened(breaker)
    time.now_s = 0.9
    breaker.failed()
    time.now_s = 1.0
    assert breaker.admits()
