"""The choice of a worker for a waiting sequence, as pure functions.

The score of a worker for a sequence, in tokens of prompt; the lowest wins:

    score = recomputed * (2 if the worker has other sequences to serve, else 1) + load - shared
    load  = committed + 64 * running + context / 64

`recomputed` is the number of tokens that this worker would compute although another worker holds them. `committed` is the number of
prompt tokens that the worker has accepted and has probably not computed yet; `shared` is the part of them that this sequence needs
too. `running` is the number of its sequences, and `context` is the number of their tokens.
docs/routing.md derives the terms and the constants; placement.py computes these values from pages, hashes and time.
"""

from collections.abc import Sequence as Seq
from typing import NamedTuple, Protocol

# A recomputed token counts twice if other sequences wait for it too. So a worker that holds a prefix is preferred to one that
# holds nothing until its load exceeds the length of the prefix, or twice that if no worker is idle.
RECOMPUTE_WEIGHT = 2
# Cost of a running sequence for those that join it: some hundred decode steps, each as expensive as one or two tokens of prompt.
DECODE_TOKENS = 64
# Each decode step also reads the sequence's context again. This many tokens of context are as expensive as one token of prompt.
CONTEXT_PER_TOKEN = 64


class Waiting(NamedTuple):
    """A sequence that waits to be placed."""

    waited_s: float
    turn: str
    """The next worker in round-robin order."""


class Candidate(NamedTuple):
    """A worker of the sequence's model that could hold the sequence."""

    worker_id: str
    num_cached_tokens: int
    """Leading tokens of the sequence that the worker holds, or will hold when it has computed its accepted prompts."""
    num_shared_tokens: int
    """The part of `num_cached_tokens` that is not computed yet. The sequence would wait for these tokens on any worker."""
    num_committed_tokens: int
    num_running: int
    num_context_tokens: int
    """Tokens of all sequences in the worker's latest step, and of those placed there in this round."""
    num_computed_tokens: int
    """Prompt tokens that the worker has computed since it attached."""
    can_take_it: bool
    """True if the worker can admit the sequence in the step that is planned now."""
    tokens_per_s: float
    """Speed at which the worker computes prompts."""

    @property
    def load(self) -> int:
        decodes = DECODE_TOKENS * self.num_running + self.num_context_tokens // CONTEXT_PER_TOKEN
        return self.num_committed_tokens + decodes


Rank = tuple[int, int, str]


def rank_of(candidate: Candidate) -> Rank:
    """Return the rank among candidates that hold equally much of a sequence, lowest first: by load, then by tokens computed so
    far, then by id.

    The second criterion keeps an idle system from putting every new prefix into the cache of its first worker.
    """
    return candidate.load, candidate.num_computed_tokens, candidate.worker_id


class Choice(NamedTuple):
    worker_id: str
    """The worker that admits the sequence, now or as soon as it can."""
    is_detour: bool = False
    """True if the sequence has waited long enough for a better worker. Sequences that this worker suits best are placed first."""
    detour_in_s: float | None = None
    """Seconds after which the sequence takes another worker that could admit it now. None if no other could."""


class RoutingPolicy(Protocol):
    def __call__(self, waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
        """Choose a worker. `candidates` is not empty. For each omitted worker it has a less loaded one that holds as much."""


def prefix_aware(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """Choose the lowest score, and among equal scores the lowest rank."""
    return _cheapest(waiting, candidates, _scores(candidates))


def least_loaded(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """Choose the lowest load, regardless of the caches."""
    return _cheapest(waiting, candidates, [each.load for each in candidates])


def round_robin(waiting: Waiting, candidates: Seq[Candidate]) -> Choice:
    """Choose the workers in turn, regardless of caches and load."""
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
    """Choose the best candidate, or another one after the sequence has waited as long as it would lose with that one.

    This rent-or-buy rule is 2-competitive: the delay is at most twice that of the best decision in hindsight.
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
