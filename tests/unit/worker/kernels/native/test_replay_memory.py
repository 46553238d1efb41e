"""Tests that results of a recording share memory, but never two that are needed at the same time."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from worker.kernels.native.replay import Lifetime, plan_memory

lifetimes = st.builds(
    lambda first, length, size: Lifetime(first=first, last=first + length, size=size),
    st.integers(-1, 30),
    st.integers(0, 6),
    st.integers(1, 50),
)


@given(st.lists(lifetimes, max_size=30))
def test_what_lives_together_lies_apart(wanted: list[Lifetime]) -> None:
    offsets, total = plan_memory(wanted)
    for (a, at), (b, bt) in combinations(zip(wanted, offsets, strict=True), 2):
        if a.first <= b.last and b.first <= a.last:
            assert at + a.size <= bt or bt + b.size <= at
    assert all(0 <= offset <= total - lifetime.size for lifetime, offset in zip(wanted, offsets, strict=True))


def test_memory_is_used_again() -> None:
    chain = [Lifetime(first=i, last=i + 1, size=10) for i in range(100)]
    assert plan_memory(chain)[1] == 20


def test_a_gap_is_filled() -> None:
    long, gone, small = (
        Lifetime(first=0, last=9, size=5),
        Lifetime(first=0, last=1, size=4),
        Lifetime(first=2, last=3, size=4),
    )
    assert plan_memory([gone, long, small]) == ([0, 4, 0], 9)
