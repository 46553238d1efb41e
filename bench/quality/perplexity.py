"""Perplexity from the log-probabilities of a text's tokens: the one definition for all modes, servers and peers.

Knows nothing about where the log-probabilities come from.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    whole: float
    """Over every token but each window's first, which nothing precedes."""
    second_half: float
    """Over those with at least half a window before them: what llama-perplexity prints."""
    num_tokens: int
    """Behind `whole`."""


def perplexity_of(logprobs: Sequence[Sequence[float]]) -> Perplexity:
    """Per window the natural logarithms of its tokens' probabilities, from the second token on."""
    return Perplexity(
        whole=_perplexity(value for window in logprobs for value in window),
        second_half=_perplexity(value for window in logprobs for value in window[(len(window) + 1) // 2 :]),
        num_tokens=sum(map(len, logprobs)),
    )


def _perplexity(logprobs: Iterable[float]) -> float:
    return math.exp(-fmean(logprobs))
