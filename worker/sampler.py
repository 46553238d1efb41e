"""Choosing tokens from logits: steps 4 to 7 of the order written in protos/v1/types.proto, and log-probabilities.

A row's token depends on its own logits, parameters and random number, never on who shares the batch: a row that is
sampled is computed by itself in float64, and its probabilities are made integers before they are summed, so that no
order of summation can change a draw. Knows nothing about steps, stops or memory.

Legend: R sampled rows, V vocabulary, K candidates (what top_k left of V, in ascending order of their ids).
"""

import math
from collections.abc import Sequence

import torch

from pagoda.sampling import SamplingParams
from worker.errors import SamplingError
from worker.penalties import adjusted_logits, needs_adjustment
from worker.philox import random_bits
from worker.sequence import RunningSequence
from worker.step import TokenLogprobs

# The weight of the most probable token. A vocabulary of 2^26 such weights still sums up within an int64.
_WEIGHT_ONE = 1 << 36
# How many of the most probable tokens are ordered to find those that make up top_p: few are nearly always enough, and
# ordering 256 of 49,152 takes 0.1 ms, ordering all 2.8 ms.
_TOP_P_WIDTHS = (256, 4096)


def sample_tokens(
    logits_RV: torch.Tensor, sequences: Sequence[RunningSequence], eos_token_ids: frozenset[int]
) -> list[int]:
    """The next token of each row's sequence."""
    plain = [row for row, sequence in enumerate(sequences) if _is_plain_greedy(sequence)]
    chosen = dict(zip(plain, _highest(_rows(logits_RV, plain), [sequences[row] for row in plain]), strict=True))
    for row, sequence in enumerate(sequences):
        if row not in chosen:
            chosen[row] = _choose(logits_RV[row], sequence, eos_token_ids)
    return [chosen[row] for row in range(len(sequences))]


def token_logprobs(logits_V: torch.Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """From the raw logits: the token's own log-probability, and those of the most probable tokens, best first."""
    logprobs_V = torch.log_softmax(logits_V.to(torch.float64), dim=0)
    top_ids = _largest(logprobs_V, num_top).tolist() if num_top else []
    top = [(int(top_id), float(logprobs_V[top_id])) for top_id in top_ids]
    # The sort is stable and the ids ascend, so the lowest id comes first among equals.
    return TokenLogprobs(
        logprob=float(logprobs_V[token_id]), top=tuple(sorted(top, key=lambda entry: entry[1], reverse=True))
    )


def _is_plain_greedy(sequence: RunningSequence) -> bool:
    return sequence.sampling.is_greedy and not needs_adjustment(sequence)


def _rows(logits_RV: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return logits_RV if len(rows) == len(logits_RV) else logits_RV[rows]


def _choose(logits_V: torch.Tensor, sequence: RunningSequence, eos_token_ids: frozenset[int]) -> int:
    adjusted_V = adjusted_logits(logits_V, sequence, eos_token_ids)
    sampling = sequence.sampling
    if sampling.is_greedy:
        return _highest(adjusted_V[None], [sequence])[0]
    _refuse_unusable(float(adjusted_V.max()), sequence)
    bits = random_bits(sampling.seed, sequence.sample_index, sequence.num_output_tokens)
    return draw(adjusted_V, sampling, bits)


def _highest(logits_RV: torch.Tensor, sequences: Sequence[RunningSequence]) -> list[int]:
    """The lowest id among the highest logits of each row."""
    if not sequences:
        return []
    # numpy promises the first of equal maxima, and a NaN counts as one; torch promises neither.
    rows = logits_RV.cpu().numpy()
    token_ids: list[int] = rows.argmax(axis=1).tolist()
    for row, (token_id, sequence) in enumerate(zip(token_ids, sequences, strict=True)):
        _refuse_unusable(float(rows[row, token_id]), sequence)
    return token_ids


def _refuse_unusable(highest_logit: float, sequence: RunningSequence) -> None:
    if math.isnan(highest_logit) or highest_logit == math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: the model computed a logit of {highest_logit}")
    if highest_logit == -math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: no token is left to choose, all logits are -inf")


def draw(logits_V: torch.Tensor, sampling: SamplingParams, bits: int) -> int:
    """One token by 64 random bits, from float64 logits of which the highest is finite."""
    ids_K = _largest(logits_V, sampling.top_k) if sampling.top_k else None
    logits_K = logits_V if ids_K is None else logits_V[ids_K]
    weights_K = _keep_min_p(_keep_top_p(_weights(logits_K, sampling.temperature), sampling.top_p), sampling.min_p)
    cumulative_K = weights_K.cumsum(0)
    target = bits * int(cumulative_K[-1]) >> 64
    index = int(torch.searchsorted(cumulative_K, target, right=True))
    return index if ids_K is None else int(ids_K[index])


def _weights(logits_K: torch.Tensor, temperature: float) -> torch.Tensor:
    """Probabilities as integers, relative to the most probable token."""
    return ((logits_K - logits_K.max()) / temperature).exp_().mul_(_WEIGHT_ONE).round_().to(torch.int64)


def _keep_top_p(weights_K: torch.Tensor, top_p: float) -> torch.Tensor:
    if top_p >= 1.0:
        return weights_K
    needed = math.ceil(top_p * int(weights_K.sum()))
    for width in (*_TOP_P_WIDTHS, len(weights_K)):
        best_first = weights_K.topk(min(width, len(weights_K))).values.cumsum(0)
        if best_first[-1] >= needed:
            break
    num_kept = int(torch.searchsorted(best_first, needed)) + 1
    kept = _largest(weights_K, num_kept)
    return torch.zeros_like(weights_K).index_copy_(0, kept, weights_K[kept])


def _keep_min_p(weights_K: torch.Tensor, min_p: float) -> torch.Tensor:
    if min_p <= 0.0:
        return weights_K
    return weights_K.where(weights_K >= math.ceil(min_p * int(weights_K.max())), 0)


def _largest(values_V: torch.Tensor, count: int) -> torch.Tensor:
    """The ids of the `count` largest values, ascending; the lowest ids among equals."""
    if count >= len(values_V):
        return torch.arange(len(values_V), device=values_V.device)
    smallest_kept = values_V.topk(count).values[-1]
    above_V, equal_V = values_V > smallest_kept, values_V == smallest_kept
    room = count - above_V.count_nonzero()
    return (above_V | (equal_V & (equal_V.cumsum(0) <= room))).nonzero().squeeze(1)
