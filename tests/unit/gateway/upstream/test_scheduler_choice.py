"""Tests of the choice of a scheduler, first and after a refusal, as tables."""

from dataclasses import replace

import pytest

from gateway.errors import ErrorKind
from gateway.upstream.scheduler_choice import SEQUENCE_COST, AfterRefusal, Candidate, after_refusal, choose, cost

A = Candidate(address="a", is_ready=True, num_workers=1)
B = Candidate(address="b", is_ready=True, num_workers=1)


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [
        (A, B, "a"),
        (A, replace(B, num_cached_tokens=16), "b"),
        (replace(A, num_cached_tokens=512), replace(B, num_cached_tokens=1024), "b"),
        # A cached prefix saves its tokens, which is not worth any wait.
        (A, replace(B, num_cached_tokens=512, num_pending_tokens=511), "b"),
        (A, replace(B, num_cached_tokens=512, num_pending_tokens=513), "a"),
        (replace(A, num_pending_tokens=100), B, "b"),
        (replace(A, num_pending_tokens=100, num_workers=4), replace(B, num_pending_tokens=26), "a"),
        (replace(A, num_sequences=2), replace(B, num_pending_tokens=2 * SEQUENCE_COST - 1), "b"),
        # A scheduler that is not ready is not chosen, even if it has cached the whole prompt.
        (replace(A, is_ready=False, num_cached_tokens=1024), replace(B, num_pending_tokens=100_000), "b"),
        (replace(A, is_ready=False, num_pending_tokens=5), replace(B, is_ready=False), "b"),
        # With the whole prompt cached, one token is still computed.
        (replace(A, num_cached_tokens=1024), replace(B, num_cached_tokens=1040), "a"),
        (replace(A, num_workers=0), replace(B, num_workers=0), "a"),
    ],
)
def test_choice(a: Candidate, b: Candidate, chosen: str) -> None:
    for candidates in ([a, b], [b, a]):
        best = choose(candidates, num_prompt_tokens=1024)
        assert best is not None and best.address == chosen


def test_without_candidates_none_is_chosen() -> None:
    assert choose([], num_prompt_tokens=1) is None


def test_cost_is_in_tokens() -> None:
    busy = replace(A, num_workers=2, num_cached_tokens=48, num_pending_tokens=100, num_sequences=3)
    assert cost(busy, num_prompt_tokens=64) == 16 + 50 + 1.5 * SEQUENCE_COST


ELSEWHERE, LATER, FAIL = AfterRefusal
FULL, DOWN, UNKNOWN, WRONG = (
    ErrorKind.OVERLOADED,
    ErrorKind.UNAVAILABLE,
    ErrorKind.NOT_FOUND,
    ErrorKind.INVALID_REQUEST,
)


@pytest.mark.parametrize(
    ("kinds", "had_place", "num_refusals", "is_another_ready", "is_recovering", "expected"),
    [
        # One retry on another scheduler before the first token.
        ((FULL, DOWN, UNKNOWN), False, 1, True, False, ELSEWHERE),
        ((FULL, DOWN, UNKNOWN), False, 2, True, False, FAIL),
        ((FULL, DOWN, UNKNOWN), False, 1, False, False, FAIL),
        # While a scheduler and its workers may be back soon, their absence is worth a wait; a full queue is not.
        ((DOWN, UNKNOWN), False, 1, False, True, LATER),
        ((DOWN, UNKNOWN), False, 2, True, True, LATER),
        ((FULL,), False, 2, True, True, FAIL),
        # A request that has lost its scheduler gets another, or waits for one.
        ((FULL, DOWN, UNKNOWN), True, 3, True, True, ELSEWHERE),
        ((FULL, DOWN, UNKNOWN), True, 3, False, True, LATER),
        ((FULL, DOWN, UNKNOWN), True, 3, False, False, FAIL),
        # Every scheduler would refuse these.
        ((WRONG, ErrorKind.INTERNAL, ErrorKind.DEADLINE_EXCEEDED), True, 1, True, True, FAIL),
    ],
)
def test_after_a_refusal(
    kinds: tuple[ErrorKind, ...],
    had_place: bool,
    num_refusals: int,
    is_another_ready: bool,
    is_recovering: bool,
    expected: AfterRefusal,
) -> None:
    for kind in kinds:
        verdict = after_refusal(
            kind,
            had_place=had_place,
            num_refusals=num_refusals,
            is_another_ready=is_another_ready,
            is_recovering=is_recovering,
        )
        assert verdict is expected, kind
