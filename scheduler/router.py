"""Which worker a waiting sequence goes to: pure functions, values in and a choice out.

The score of a worker for a sequence, in tokens of prompt; the lowest wins:

    score = RECOMPUTE_WEIGHT * uncached + committed + DECODE_TOKENS * running

`uncached` is what the worker would have to compute of the sequence, `committed` the prompt tokens that it has taken on and not
computed yet, `running` the number of its sequences. docs/routing.md says where the terms and the constants come from.
Knows nothing about pages, hashes and time: `scheduler.placement` turns those into these values.
"""

from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

# A computed token counts as two: the sequence waits for it, and so do all behind it. So a worker that holds a prefix may have as
# much before it as the prefix is long, and is still preferred to one that has nothing to do and holds nothing.
RECOMPUTE_WEIGHT = 2
# What a running sequence will cost those that join it: some hundred decode steps, each about as dear as a token of prompt or two.
DECODE_TOKENS = 64


class Waiting(NamedTuple):
    """A sequence that is to be placed."""

    num_tokens: int
    """Prompt, and what was generated before it was preempted or its worker lost."""
    waited_s: float
    arrival: int
    """Its number in the order of arrival."""


class Candidate(NamedTuple):
    """A worker of the sequence's model that could hold it."""

    worker_id: str
    num_cached_tokens: int
    """Leading tokens of the sequence that it holds, or will hold once it has computed what it has taken on."""
    num_committed_tokens: int
    num_running: int
    num_computed_tokens: int
    """Of all prompts since it attached."""
    can_take_it: bool
    """Now: it plans a step, with a place and the pages for this sequence."""
    tokens_per_s: float
    """How fast it computes prompts."""

    @property
    def load(self) -> int:
        return self.num_committed_tokens + DECODE_TOKENS * self.num_running


class Choice(NamedTuple):
    worker_id: str
    """It goes there, or waits until that worker can take it."""
    is_detour: bool = False
    """It has waited long enough for a better one: those whom this worker suits best go first."""
    detour_in_s: float | None = None
    """How long it will wait for that worker while another could take it; None while no other could."""


class RoutingPolicy(Protocol):
    def __call__(self, waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
        """`candidates` are not empty, and in the order of their ids."""


def prefix_aware(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """The lowest score; ties go to the least loaded, then to the one that has computed least, then to the lowest id.

    Without the third, an idle system would put every new prefix into the cache of its first worker.
    """
    return _cheapest(waiting, candidates, [_score(waiting, each) for each in candidates])


def least_loaded(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """The lowest load, whatever is cached where."""
    return _cheapest(waiting, candidates, [each.load for each in candidates])


def round_robin(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """Each its turn, whatever is cached where and whoever is busy."""
    return Choice(candidates[waiting.arrival % len(candidates)].worker_id)


POLICIES: dict[str, RoutingPolicy] = {
    "prefix": prefix_aware,
    "least-loaded": least_loaded,
    "round-robin": round_robin,
}


def _score(waiting: Waiting, candidate: Candidate) -> int:
    return RECOMPUTE_WEIGHT * (waiting.num_tokens - candidate.num_cached_tokens) + candidate.load


def _cheapest(waiting: Waiting, candidates: Seq[Candidate], scores: Seq[int]) -> Choice:
    """The best one, or, after a wait for it as long as what is lost with another, that other: whoever waits for the better one can
    lose at most twice what he would have lost with the best decision in hindsight.
    """
    ranked = [
        (score, each.load, each.num_computed_tokens, index)
        for index, (score, each) in enumerate(zip(scores, candidates, strict=True))
    ]
    best_score, *_, best = min(ranked)
    if candidates[best].can_take_it:
        return Choice(candidates[best].worker_id)
    able = [rank for rank in ranked if candidates[rank[-1]].can_take_it]
    if not able:
        return Choice(candidates[best].worker_id)
    other_score, *_, other = min(able)
    detour_in_s = (other_score - best_score) / candidates[other].tokens_per_s - waiting.waited_s
    if detour_in_s <= 0:
        return Choice(candidates[other].worker_id, is_detour=True)
    return Choice(candidates[best].worker_id, detour_in_s=detour_in_s)
