"""Choice of a token from a row of logits, in the order of steps in protos/v1/types.proto.

The first three steps, bias, bans and penalties, are in logit_adjustment.py.

Workers with and without native code choose the same token, because each number has one right value: logits are compared
unchanged; their differences become exponents of 2 in float32, one IEEE operation at a time; powers of 2 become integers, the
weights; weights are summed and compared as integers. A token whose probability is less than 2^-31 of the most probable one's
has a weight of 0.

This uses numpy, not torch: numpy guarantees the first of equal maxima, and a row is too short for several threads, which cost
far more than they gain when other processes use the same cores.

Legend: V vocabulary, W int32 words of a mask, K candidates (what top_k left of V, in ascending order of their ids).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pagoda.wire.sampling import SamplingParams
from worker.kernels.fixed_point import LOG2_E, exp2_array
from worker.kernels.logit_adjustment import Adjustment, adjusted_logits

Logits = NDArray[np.float32]
Weights = NDArray[np.int64]
Values = TypeVar("Values", Logits, Weights)

WEIGHT_ONE = 1 << 30
"""The weight of the most probable token. The sum of 2^26 such weights fits an int64."""
LARGEST_FACTOR = float(np.finfo(np.float32).max)
# Numbers of most probable tokens that are sorted to find those that make up top_p: few are nearly always enough.
_TOP_P_WIDTHS = (256, 4096)


_NO_IDS = np.empty(0, np.int32)


class Choice(NamedTuple):
    """The parameters for choosing a row's token; `bits` are 64 random bits."""

    sampling: SamplingParams
    bits: int
    adjustment: Adjustment | None = None
    banned_ids: NDArray[np.int32] = _NO_IDS
    """Tokens that cannot be chosen: those that end the sequence, before it has min_tokens."""
    mask_W: NDArray[np.int32] | None = None
    """The tokens that can be chosen, as bits: bit i % 32 of word i // 32 stands for token i. None for all tokens."""


class Chosen(NamedTuple):
    """A token and its logit after the adjustment, as a float32."""

    token_id: int
    logit: float


class ChooseTokens(Protocol):
    """A function that chooses tokens. There are two, which give the same tokens: the one below, and native code."""

    def __call__(self, rows: Sequence[Logits], choices: Sequence[Choice]) -> list[Chosen]:
        """Return the token of each row, and leave the rows unchanged.

        If a row's highest logit is not finite, or the row has a NaN, return the id of such a logit.
        """


def choose_tokens(rows: Sequence[Logits], choices: Sequence[Choice]) -> list[Chosen]:
    return [_choose_adjusted(logits_V, choice) for logits_V, choice in zip(rows, choices, strict=True)]


def exponent_factor(temperature: float) -> float:
    """Return the factor that converts a difference of logits into an exponent of 2. It fits a float32."""
    return min(LOG2_E / temperature, LARGEST_FACTOR)


def least_weight(min_p: float) -> int:
    return math.ceil(min_p * WEIGHT_ONE)


def largest(values_V: Values, count: int) -> NDArray[np.int64]:
    """Return the ids of the `count` largest values, ascending; among equal values, the lowest ids."""
    if count >= len(values_V):
        return np.arange(len(values_V))
    smallest_kept = _largest_values(values_V, count)[0]
    above = np.flatnonzero(values_V > smallest_kept)
    equal = np.flatnonzero(values_V == smallest_kept)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


def _choose_adjusted(logits_V: Logits, choice: Choice) -> Chosen:
    if choice.adjustment is not None or len(choice.banned_ids) or choice.mask_W is not None:
        logits_V = adjusted_logits(logits_V, choice.adjustment, choice.banned_ids, choice.mask_W)
    token_id = _choose(logits_V, choice.sampling, choice.bits)
    return Chosen(token_id, float(logits_V[token_id]))


def _choose(logits_V: Logits, sampling: SamplingParams, bits: int) -> int:
    # `best` is the lowest id among the highest logits; NaN counts as highest, so it is always found.
    best = int(logits_V.argmax())
    if sampling.is_greedy or not np.isfinite(logits_V[best]):
        return best
    ids_K = largest(logits_V, sampling.top_k) if sampling.top_k else None
    logits_K = logits_V if ids_K is None else logits_V[ids_K]
    weights_K = _keep_top_p(_weights(logits_K, logits_V[best], sampling.temperature), sampling.top_p)
    weights_K = np.where(weights_K >= least_weight(sampling.min_p), weights_K, 0)
    cumulative_K = weights_K.cumsum()
    target = bits * int(cumulative_K[-1]) >> 64
    index = int(cumulative_K.searchsorted(target, side="right"))
    return index if ids_K is None else int(ids_K[index])


def _weights(logits_K: Logits, highest: np.float32, temperature: float) -> Weights:
    """Return probabilities as integers, relative to the most probable token."""
    with np.errstate(over="ignore"):
        exponents_K = (logits_K - highest) * np.float32(exponent_factor(temperature))
    weights_K: Weights = np.rint(exp2_array(exponents_K) * np.float32(WEIGHT_ONE)).astype(np.int64)
    return weights_K


def _keep_top_p(weights_K: Weights, top_p: float) -> Weights:
    """Keep the weights of the smallest set of most probable tokens that holds `top_p` of the sum; set the others to 0."""
    if top_p >= 1.0:
        return weights_K
    total = int(weights_K.sum())
    # The product is a float, which may be rounded up beyond the total.
    needed = min(math.ceil(top_p * total), total)
    for width in (*_TOP_P_WIDTHS, len(weights_K)):
        cumulative = np.sort(_largest_values(weights_K, width))[::-1].cumsum()
        if cumulative[-1] >= needed:
            break
    kept = largest(weights_K, int(cumulative.searchsorted(needed)) + 1)
    kept_K = np.zeros_like(weights_K)
    kept_K[kept] = weights_K[kept]
    return kept_K


def _largest_values(values_V: Values, count: int) -> Values:
    """Return the `count` largest values: the smallest of them first, the rest in any order."""
    rank = max(0, len(values_V) - count)
    return np.partition(values_V, rank)[rank:]
