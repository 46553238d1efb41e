"""Tests of the routing policies, as tables: the state of each worker → the worker that the sequence goes to or waits for."""

from dataclasses import dataclass

import pytest

from scheduler.routing.router import (
    CONTEXT_PER_TOKEN,
    DECODE_TOKENS,
    Candidate,
    Choice,
    Waiting,
    least_loaded,
    prefix_aware,
    round_robin,
)

SPEED = 1000.0


def worker(
    worker_id: str,
    *,
    cached: int = 0,
    shared: int = 0,
    committed: int = 0,
    running: int = 0,
    context: int = 0,
    computed: int = 0,
    able: bool = True,
    speed: float = SPEED,
) -> Candidate:
    return Candidate(worker_id, cached, shared, committed, running, context, computed, able, speed)


@dataclass
class Case:
    what: str
    candidates: list[Candidate]
    expected: Choice
    waited_s: float = 0.0


PREFIX_CASES = [
    Case("alone", [worker("a")], Choice("a")),
    Case("nothing to tell them apart: the first id", [worker("a"), worker("b")], Choice("a")),
    Case("equally loaded: the one that has computed least", [worker("a", computed=9), worker("b")], Choice("b")),
    Case("the longest prefix", [worker("a"), worker("b", cached=64), worker("c", cached=32)], Choice("b")),
    Case("without a prefix the least loaded", [worker("a", running=2), worker("b", running=1)], Choice("b")),
    Case(
        "prompts that are not computed yet are load", [worker("a", committed=65), worker("b", running=1)], Choice("b")
    ),
    Case("the same score: the less loaded", [worker("a", cached=32, running=1), worker("b")], Choice("b")),
    Case(
        "a prefix outweighs a queue as long as itself while another is idle",
        [worker("a", cached=500, committed=499), worker("b")],
        Choice("a"),
    ),
    Case("but not a longer one", [worker("a", cached=500, committed=501), worker("b")], Choice("b")),
    Case(
        "nor so many running ones",
        [worker("a", cached=500, running=500 // DECODE_TOKENS + 1), worker("b")],
        Choice("b"),
    ),
    Case(
        "nor running ones that have so long a context",
        [worker("a", cached=500, running=1, context=436 * CONTEXT_PER_TOKEN + CONTEXT_PER_TOKEN), worker("b")],
        Choice("b"),
    ),
    Case(
        "while all have others to serve it outweighs twice its length",
        [worker("a", cached=500, committed=1000 + DECODE_TOKENS - 1), worker("b", running=1)],
        Choice("a"),
    ),
    Case("and no more", [worker("a", cached=500, committed=1002 + DECODE_TOKENS), worker("b", running=1)], Choice("b")),
    Case(
        "what is being computed of the prefix itself is no queue",
        [worker("a", cached=500, shared=500, committed=500, running=1), worker("b")],
        Choice("a"),
    ),
    Case(
        "it waits for the holder of its prefix while that is full, as long as it takes to compute it elsewhere",
        [worker("a"), worker("b", cached=500, able=False)],
        Choice("b", detour_in_s=0.5),
    ),
    Case(
        "as long as it takes to compute it twice where others are served too",
        [worker("a", running=1), worker("b", cached=500, running=1, able=False)],
        Choice("b", detour_in_s=1.0),
    ),
    Case(
        "what the holder has before it shortens the wait",
        [worker("a", running=1), worker("b", cached=500, committed=400, running=1, able=False)],
        Choice("b", detour_in_s=0.6),
    ),
    Case(
        "a faster worker does too",
        [worker("a", running=1, speed=4000), worker("b", cached=500, running=1, able=False)],
        Choice("b", detour_in_s=0.25),
    ),
    Case(
        "then it takes another",
        [worker("a", running=1), worker("b", cached=500, able=False), worker("c")],
        Choice("c", is_detour=True),
        waited_s=1.0,
    ),
    Case(
        "of the others it takes the second best",
        [worker("a", running=1), worker("b", cached=500, running=1, able=False), worker("c", cached=100, running=1)],
        Choice("c", is_detour=True),
        waited_s=1.0,
    ),
    Case(
        "while no other could take it, it waits",
        [worker("a", able=False), worker("b", cached=500, able=False)],
        Choice("b"),
        waited_s=100.0,
    ),
    Case(
        "an equally good one that is busy is not waited for",
        [worker("a", able=False), worker("b")],
        Choice("b", is_detour=True),
    ),
    Case(
        "a preempted sequence goes back to its pages",
        [worker("a"), worker("b", cached=960, running=9)],
        Choice("b"),
        waited_s=60.0,
    ),
]

LOAD_CASES = [
    Case("the least loaded, whatever is cached", [worker("a", cached=960, running=1), worker("b")], Choice("b")),
    Case("nothing to tell them apart: the first id", [worker("a"), worker("b", cached=960)], Choice("a")),
    Case(
        "one that is busy for a moment is waited for",
        [worker("a", running=2), worker("b", able=False)],
        Choice("b", detour_in_s=2 * DECODE_TOKENS / SPEED),
    ),
    Case(
        "and not longer",
        [worker("a", running=2), worker("b", able=False)],
        Choice("a", is_detour=True),
        waited_s=2 * DECODE_TOKENS / SPEED,
    ),
]


@pytest.mark.parametrize("case", PREFIX_CASES, ids=lambda case: case.what)
def test_prefix_aware(case: Case) -> None:
    assert prefix_aware(Waiting(case.waited_s, "a"), case.candidates) == case.expected


@pytest.mark.parametrize("case", LOAD_CASES, ids=lambda case: case.what)
def test_least_loaded(case: Case) -> None:
    assert least_loaded(Waiting(case.waited_s, "a"), case.candidates) == case.expected


def test_round_robin() -> None:
    candidates = [worker("a", cached=960), worker("b", able=False), worker("c", running=7)]
    assert [round_robin(Waiting(0.0, turn), candidates).worker_id for turn in "abc"] == ["a", "b", "c"]
