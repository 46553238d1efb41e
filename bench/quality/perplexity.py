"""Perplexity from the log-probabilities of a text's tokens, defined once for all modes, servers and peers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity:
    """The perplexity of a text, over all tokens and over second halves of windows."""

    whole: float
    """Perplexity over all tokens except each window's first, which has no context."""
    second_half: float
    """Perplexity over tokens with at least half a window before them, as llama-perplexity prints it."""
    num_tokens: int
    """Number of tokens in `whole`."""


def perplexity_of(logprobs: Sequence[Sequence[float]]) -> Perplexity:
    """Return the perplexity. `logprobs` holds, per window, the natural logarithms from the second token on."""
    return Perplexity(
        whole=_perplexity(value for window in logprobs for value in window),
        second_half=_perplexity(value for window in logprobs for value in window[(len(window) + 1) // 2 :]),
        num_tokens=sum(map(len, logprobs)),
    )


def _perplexity(logprobs: Iterable[float]) -> float:
    return math.exp(-fmean(logprobs))
