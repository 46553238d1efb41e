"""The choice of a scheduler for a request, first and after a refusal, as pure functions.

The cost of a scheduler is the work before the request's first token: the prompt tokens that its best worker has not cached, plus
the pending work per worker.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.errors import ErrorKind

# A decoding sequence takes part in every step for some time, which delays a later request like this many tokens.
SEQUENCE_COST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scheduler that the gateway has a session with."""

    address: str
    is_ready: bool
    """True if the scheduler has workers for the model and is not draining."""
    num_workers: int = 0
    """Number of workers for the model."""
    num_cached_tokens: int = 0
    """Number of prompt tokens that its best worker has cached."""
    num_pending_tokens: int = 0
    """Number of tokens that the scheduler still has to compute."""
    num_sequences: int = 0
    """Number of sequences that wait or run there."""


def choose(candidates: Iterable[Candidate], num_prompt_tokens: int) -> Candidate | None:
    """Return the cheapest ready candidate; if none is ready, the cheapest, whose refusal gives the reason. Ties go by address."""
    return min(
        candidates,
        key=lambda each: (not each.is_ready, cost(each, num_prompt_tokens), each.address),
        default=None,
    )


def cost(candidate: Candidate, num_prompt_tokens: int) -> float:
    """Return the candidate's cost in tokens."""
    # The last prompt token is always computed: its output gives the first token of the answer.
    num_uncached = max(1, num_prompt_tokens - candidate.num_cached_tokens)
    load = candidate.num_pending_tokens + SEQUENCE_COST * candidate.num_sequences
    return num_uncached + load / max(1, candidate.num_workers)


class AfterRefusal(Enum):
    """The next step for a request that a scheduler has refused."""

    ELSEWHERE = "try another scheduler now"
    LATER = "try again soon"
    FAIL = "end the request with this error"


# Another scheduler may accept the request: it may have workers, room, or the model.
_DIFFERS_ELSEWHERE = (ErrorKind.UNAVAILABLE, ErrorKind.OVERLOADED, ErrorKind.NOT_FOUND)
# Errors of a scheduler that has just restarted and whose workers are not back yet.
_PASSING = (ErrorKind.UNAVAILABLE, ErrorKind.NOT_FOUND)


def after_refusal(
    kind: ErrorKind, *, had_place: bool, num_refusals: int, is_another_ready: bool, is_recovering: bool
) -> AfterRefusal:
    """Decide what to do with a request that a scheduler has refused, the last of `num_refusals` in a row.

    A request that has already lost a scheduler is retried as long as possible; one that never had any is retried once.
    """
    if kind not in _DIFFERS_ELSEWHERE:
        return AfterRefusal.FAIL
    if is_another_ready and (had_place or num_refusals == 1):
        return AfterRefusal.ELSEWHERE
    if is_recovering and (had_place or kind in _PASSING):
        return AfterRefusal.LATER
    return AfterRefusal.FAIL
