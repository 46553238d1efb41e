"""Which scheduler a request goes to, and where to when that one refuses it: pure functions of what is known.

A scheduler costs what has to be computed there before the request's first token: what its best worker has not cached of the
prompt, and for each worker what is before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from gateway.errors import ErrorKind

# What decodes takes a place in every step for some time: for who comes after it, about as if so many tokens were computed first.
SEQUENCE_COST = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scheduler with which there is a session."""

    address: str
    is_ready: bool
    """It does not drain, and has workers for the model."""
    num_workers: int = 0
    """For the model."""
    num_cached_tokens: int = 0
    """Of the prompt, where most are."""
    num_pending_tokens: int = 0
    """Of all that it has to do."""
    num_sequences: int = 0
    """That wait there or run."""


def choose(candidates: Iterable[Candidate], num_prompt_tokens: int) -> Candidate | None:
    """Return the cheapest ready one, or, where none is ready, the cheapest: it will say why it is not. Equals go by address."""
    return min(
        candidates,
        key=lambda each: (not each.is_ready, cost(each, num_prompt_tokens), each.address),
        default=None,
    )


def cost(candidate: Candidate, num_prompt_tokens: int) -> float:
    """Return the candidate's cost in tokens."""
    # The last token is computed in any case: its output is wanted.
    num_uncached = max(1, num_prompt_tokens - candidate.num_cached_tokens)
    load = candidate.num_pending_tokens + SEQUENCE_COST * candidate.num_sequences
    return num_uncached + load / max(1, candidate.num_workers)


class AfterRefusal(Enum):
    ELSEWHERE = "another scheduler may take it, now"
    LATER = "soon one may take it"
    FAIL = "it ends with this error"


# Another scheduler may say otherwise: it may have workers, room, or that model.
_DIFFERS_ELSEWHERE = (ErrorKind.UNAVAILABLE, ErrorKind.OVERLOADED, ErrorKind.NOT_FOUND)
# What a scheduler says that has just started and whose workers are not back yet.
_PASSING = (ErrorKind.UNAVAILABLE, ErrorKind.NOT_FOUND)


def after_refusal(
    kind: ErrorKind, *, had_place: bool, num_refusals: int, is_another_ready: bool, is_recovering: bool
) -> AfterRefusal:
    """Decide what becomes of a request that a scheduler has refused, the last of `num_refusals` in a row.

    One that has lost its place is brought back at any price; one that never had any is tried once more.
    """
    if kind not in _DIFFERS_ELSEWHERE:
        return AfterRefusal.FAIL
    if is_another_ready and (had_place or num_refusals == 1):
        return AfterRefusal.ELSEWHERE
    if is_recovering and (had_place or kind in _PASSING):
        return AfterRefusal.LATER
    return AfterRefusal.FAIL
