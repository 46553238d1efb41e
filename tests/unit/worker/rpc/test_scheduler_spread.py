"""Tests that workers, each deciding for itself, spread evenly over schedulers and then stop moving."""

from collections import Counter

import pytest

from worker.rpc.scheduler_spread import better_place, by_preference

A, B, C = "a:50051", "b:50051", "c:50051"
WORKERS = [f"worker-{number}" for number in range(60)]


def test_workers_begin_spread_and_those_of_a_dead_scheduler_spread_over_the_others() -> None:
    orders = [by_preference(worker, [A, B, C]) for worker in WORKERS]
    assert all(count >= 10 for count in Counter(order[0] for order in orders).values())
    assert Counter(order[1] for order in orders if order[0] == A).keys() == {B, C}
    # The order of the list does not matter.
    assert orders == [by_preference(worker, [C, A, B]) for worker in WORKERS]


def sizes(peers: dict[str, set[str]]) -> list[int]:
    return [len(ids) for ids in peers.values()]


@pytest.mark.parametrize(
    ("begin", "end", "most_moves"),
    [
        ([2, 0], [1, 1], 1),
        ([1, 0], [1, 0], 0),
        ([3, 2], [3, 2], 0),
        ([9, 0], [5, 4], 4),
        ([0, 4, 5], [3, 3, 3], 3),
        # Six schedulers lose one worker each at the same time, and some of these return.
        ([2, 2, 2, 2, 2, 2, 0], [2, 2, 2, 2, 2, 1, 1], 12),
    ],
)
def test_they_come_to_rest_with_equal_shares(begin: list[int], end: list[int], most_moves: int) -> None:
    waiting = iter(WORKERS)
    peers = {f"scheduler-{n}:50051": {next(waiting) for _ in range(size)} for n, size in enumerate(begin)}
    num_moves = 0
    for _ in range(most_moves + 1):
        moves = {worker: better_place(worker, peers) for ids in peers.values() for worker in ids}
        for here, ids in peers.items():
            assert sum(moves[worker] is not None for worker in ids) <= 1, f"not one at a time at {here}"
        for worker, place in moves.items():
            if place is not None:
                num_moves += 1
                for ids in peers.values():
                    ids.discard(worker)
                peers[place].add(worker)
    assert sorted(sizes(peers), reverse=True) == sorted(end, reverse=True)
    assert num_moves <= most_moves


def test_no_worker_moves_without_enough_information() -> None:
    assert better_place("w", {}) is None
    # Its own scheduler has not answered.
    assert better_place("w", {B: set()}) is None
    # One scheduler under two names.
    assert better_place("w", {A: {"v", "w"}, B: {"v", "w"}}) is None
