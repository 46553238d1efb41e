"""Which worker a waiting sequence goes to: pure functions, values in and a choice out.

The score of a worker for a sequence, in tokens of prompt; the lowest wins:

    score = recomputed * (2 if it has others to serve, else 1) + load - shared
    load  = committed + 64 * running + context / 64

`recomputed` is what the worker would have to compute of the sequence although another holds it, `committed` the prompt tokens that
it has taken on and has probably not computed yet, `shared` those of them that this sequence needs too, `running` the number of its
sequences and `context` their tokens.
docs/routing.md says where the terms and the constants come from, placement.py turns pages, hashes and time into these values.
"""

from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

# A computed token counts as two where others wait for it too. So a worker that holds a prefix may have as much before it as the
# prefix is long, or twice that where no worker is idle, and is still preferred to one that holds nothing.
RECOMPUTE_WEIGHT = 2
# What a running sequence will cost those that join it: some hundred decode steps, each about as dear as a token of prompt or two,
DECODE_TOKENS = 64
# and in each of them what it has computed before is read again: so many tokens of that are as dear as one of prompt.
CONTEXT_PER_TOKEN = 64


class Waiting(NamedTuple):
    """A sequence that is to be placed."""

    waited_s: float
    turn: str
    """The worker whose turn it is if all take turns."""


class Candidate(NamedTuple):
    """A worker of the sequence's model that could hold it."""

    worker_id: str
    num_cached_tokens: int
    """Leading tokens of the sequence that it holds, or will hold once it has computed what it has taken on."""
    num_shared_tokens: int
    """Of those, what it has not computed yet: this sequence would wait for them anywhere."""
    num_committed_tokens: int
    num_running: int
    num_context_tokens: int
    """Of all that its latest step computes for, and of those placed there in this round."""
    num_computed_tokens: int
    """Of all prompts since it attached."""
    can_take_it: bool
    """Now: it plans a step, with a place and the pages for this sequence."""
    tokens_per_s: float
    """How fast it computes prompts."""

    @property
    def load(self) -> int:
        decodes = DECODE_TOKENS * self.num_running + self.num_context_tokens // CONTEXT_PER_TOKEN
        return self.num_committed_tokens + decodes


Rank = tuple[int, int, str]


def rank_of(candidate: Candidate) -> Rank:
    """The lowest comes first for a sequence of which all hold equally much: the least loaded, then the one that has computed least,
    then the lowest id.

    Without the second, an idle system would put every new prefix into the cache of its first worker.
    """
    return candidate.load, candidate.num_computed_tokens, candidate.worker_id


class Choice(NamedTuple):
    worker_id: str
    """It goes there, or waits until that worker can take it."""
    is_detour: bool = False
    """It has waited long enough for a better one: those whom this worker suits best go first."""
    detour_in_s: float | None = None
    """How long it will wait for that worker while another could take it; None while no other could."""


class RoutingPolicy(Protocol):
    def __call__(self, waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
        """`candidates` are not empty; for each worker that is left out, they have a less loaded one that holds as much."""


def prefix_aware(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """The lowest score; ties go by rank."""
    return _cheapest(waiting, candidates, _scores(candidates))


def least_loaded(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """The lowest load, whatever is cached where."""
    return _cheapest(waiting, candidates, [each.load for each in candidates])


def round_robin(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """Each its turn, whatever is cached where and whoever is busy."""
    return Choice(waiting.turn)


POLICIES: dict[str, RoutingPolicy] = {
    "prefix": prefix_aware,
    "least-loaded": least_loaded,
    "round-robin": round_robin,
}


def _scores(candidates: Seq[Candidate]) -> list[int]:
    most_cached = max(each.num_cached_tokens for each in candidates)
    return [_score(each, most_cached - each.num_cached_tokens) for each in candidates]


def _score(candidate: Candidate, num_recomputed_tokens: int) -> int:
    weight = RECOMPUTE_WEIGHT if candidate.load else 1
    return weight * num_recomputed_tokens + candidate.load - candidate.num_shared_tokens


def _cheapest(waiting: Waiting, candidates: Seq[Candidate], scores: Seq[int]) -> Choice:
    """The best one, or, after a wait for it as long as what is lost with another, that other: whoever waits for the better one can
    lose at most twice what he would have lost with the best decision in hindsight.
    """
    ranked = sorted(zip(scores, map(rank_of, candidates), candidates, strict=True))
    best_score, _, best = ranked[0]
    other_score, _, other = next((each for each in ranked if each[2].can_take_it), ranked[0])
    if not other.can_take_it or other is best:
        return Choice(best.worker_id)
    detour_in_s = (other_score - best_score) / other.tokens_per_s - waiting.waited_s
    if detour_in_s <= 0:
        return Choice(other.worker_id, is_detour=True)
    return Choice(best.worker_id, detour_in_s=detour_in_s)
