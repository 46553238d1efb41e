"""Choosing tokens from logits: steps 4 to 7 of the order written in protos/v1/types.proto, and log-probabilities.

A row's token depends on its own logits, parameters and random number, never on who shares the batch: a row that is
sampled is computed by itself in float64, and its probabilities are made integers before they are summed, so that no
order of summation can change a draw. Knows nothing about steps, stops or memory.

In numpy, not torch: it promises the first of equal maxima, and a row is too short to be worth a team of threads, which
cost far more than they bring when other processes want the same cores.

Legend: R sampled rows, V vocabulary, K candidates (what top_k left of V, in ascending order of their ids).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pagoda.logprobs import TokenLogprobs
from pagoda.sampling import SamplingParams
from worker.errors import SamplingError
from worker.penalties import adjusted_logits, needs_adjustment
from worker.philox import random_bits
from worker.sequence import RunningSequence

Weights = NDArray[np.int64]
Values = TypeVar("Values", NDArray[np.float32], NDArray[np.float64], Weights)

# The weight of the most probable token. A vocabulary of 2^26 such weights still sums up within an int64.
_WEIGHT_ONE = 1 << 36
# How many of the most probable tokens are ordered to find those that make up top_p: few are nearly always enough.
_TOP_P_WIDTHS = (256, 4096)


def sample_tokens(
    logits_RV: NDArray[np.float32], sequences: Sequence[RunningSequence], eos_token_ids: frozenset[int]
) -> list[int]:
    """The next token of each row's sequence."""
    return [_choose(logits_V, sequence, eos_token_ids) for logits_V, sequence in zip(logits_RV, sequences, strict=True)]


def token_logprobs(logits_V: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """From the raw logits: the token's own log-probability, and those of the most probable tokens, best first."""
    shifted_V = logits_V.astype(np.float64) - float(logits_V.max())
    log_total = math.log(float(np.exp(shifted_V).sum()))
    top_ids = _largest(logits_V, num_top).tolist() if num_top else []
    # The sort is stable and the ids ascend, so the lowest id comes first among equals.
    top = sorted(((top_id, float(shifted_V[top_id]) - log_total) for top_id in top_ids), key=lambda entry: -entry[1])
    return TokenLogprobs(logprob=float(shifted_V[token_id]) - log_total, top=tuple(top))


def _choose(logits_V: NDArray[np.float32], sequence: RunningSequence, eos_token_ids: frozenset[int]) -> int:
    sampling = sequence.sampling
    if sampling.is_greedy and not needs_adjustment(sequence):
        return _highest(logits_V, sequence)
    adjusted_V = adjusted_logits(logits_V, sequence, eos_token_ids)
    highest = _highest(adjusted_V, sequence)
    if sampling.is_greedy:
        return highest
    return draw(adjusted_V, sampling, random_bits(sampling.seed, sequence.sample_index, sequence.num_output_tokens))


def _highest(logits_V: NDArray[np.float32] | NDArray[np.float64], sequence: RunningSequence) -> int:
    """The lowest id among the highest logits. A NaN counts as highest, so none goes by unseen."""
    token_id = int(logits_V.argmax())
    logit = float(logits_V[token_id])
    if math.isnan(logit) or logit == math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: the model computed a logit of {logit}")
    if logit == -math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: no token is left to choose, all logits are -inf")
    return token_id


def draw(logits_V: NDArray[np.float64], sampling: SamplingParams, bits: int) -> int:
    """One token by 64 random bits, from logits of which the highest is finite."""
    ids_K = _largest(logits_V, sampling.top_k) if sampling.top_k else None
    logits_K = logits_V if ids_K is None else logits_V[ids_K]
    weights_K = _keep_min_p(_keep_top_p(_weights(logits_K, sampling.temperature), sampling.top_p), sampling.min_p)
    cumulative_K = weights_K.cumsum()
    target = bits * int(cumulative_K[-1]) >> 64
    index = int(cumulative_K.searchsorted(target, side="right"))
    return index if ids_K is None else int(ids_K[index])


def _weights(logits_K: NDArray[np.float64], temperature: float) -> Weights:
    """Probabilities as integers, relative to the most probable token."""
    with np.errstate(over="ignore"):
        exponents_K = (logits_K - logits_K.max()) / temperature
    weights_K: Weights = np.rint(np.exp(exponents_K) * _WEIGHT_ONE).astype(np.int64)
    return weights_K


def _keep_top_p(weights_K: Weights, top_p: float) -> Weights:
    """The smallest set of most probable tokens that holds `top_p` of the sum; 0 elsewhere."""
    if top_p >= 1.0:
        return weights_K
    needed = math.ceil(top_p * int(weights_K.sum()))
    for width in (*_TOP_P_WIDTHS, len(weights_K)):
        cumulative = np.sort(_largest_values(weights_K, width))[::-1].cumsum()
        if cumulative[-1] >= needed:
            break
    kept = _largest(weights_K, int(cumulative.searchsorted(needed)) + 1)
    kept_K = np.zeros_like(weights_K)
    kept_K[kept] = weights_K[kept]
    return kept_K


def _keep_min_p(weights_K: Weights, min_p: float) -> Weights:
    if min_p <= 0.0:
        return weights_K
    return np.where(weights_K >= math.ceil(min_p * int(weights_K.max())), weights_K, 0)


def _largest(values_V: Values, count: int) -> NDArray[np.int64]:
    """The ids of the `count` largest values, ascending; the lowest ids among equals."""
    if count >= len(values_V):
        return np.arange(len(values_V))
    smallest_kept = _largest_values(values_V, count)[0]
    above = np.flatnonzero(values_V > smallest_kept)
    equal = np.flatnonzero(values_V == smallest_kept)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


def _largest_values(values_V: Values, count: int) -> Values:
    """In no order, but that the smallest comes first."""
    rank = max(0, len(values_V) - count)
    return np.partition(values_V, rank)[rank:]
