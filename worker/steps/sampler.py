"""Sampling: the next token of each sequence from its row of logits, and log-probabilities.

A row's token depends only on its own logits, parameters and random number, never on other rows of the batch. Random numbers
come from philox.py. Logits are adjusted in kernels/logit_adjustment.py and tokens chosen in kernels/sampling.py, or both in
native code that gives the same tokens.

Legend: R sampled rows, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pagoda.wire.logprobs import TokenLogprobs
from worker.constraints.masks import NO_IDS, NO_MASK, RowMask, leaves_a_token
from worker.errors import SamplingError
from worker.kernels.logit_adjustment import banned
from worker.kernels.sampling import Choice, ChooseTokens, choose_tokens, largest
from worker.steps.philox import random_bits
from worker.steps.sequence import RunningSequence


def sample_tokens(
    logits_RV: NDArray[np.float32],
    sequences: Sequence[RunningSequence],
    eos_token_ids: frozenset[int],
    choose: ChooseTokens = choose_tokens,
    masks: Mapping[int, RowMask] = MappingProxyType({}),
) -> list[int]:
    """Return the next token of each row's sequence. `masks` are those of constrained sequences, by sequence id.

    Raises SamplingError if no token can be chosen.
    """
    vocab_size = logits_RV.shape[1]
    choices = [
        _choice(sequence, eos_token_ids, vocab_size, masks.get(sequence.sequence_id, NO_MASK)) for sequence in sequences
    ]
    chosen = choose(list(logits_RV), choices)
    for (_, logit), sequence in zip(chosen, sequences, strict=True):
        _check(logit, sequence)
    return [token_id for token_id, _ in chosen]


def token_logprobs(logits_V: NDArray[np.float32], token_id: int, num_top: int) -> TokenLogprobs:
    """Return, from the raw logits, the token's log-probability and those of the `num_top` most probable tokens, best first."""
    shifted_V = logits_V.astype(np.float64) - float(logits_V.max())
    log_total = math.log(float(np.exp(shifted_V).sum()))
    top_ids = largest(logits_V, num_top).tolist() if num_top else []
    # The sort is stable and the ids ascend, so the lowest id comes first among equals.
    top = sorted(((top_id, float(shifted_V[top_id]) - log_total) for top_id in top_ids), key=lambda entry: -entry[1])
    return TokenLogprobs(logprob=float(shifted_V[token_id]) - log_total, top=tuple(top))


def _choice(sequence: RunningSequence, eos_token_ids: frozenset[int], vocab_size: int, mask: RowMask) -> Choice:
    sampling = sequence.sampling
    bits = 0 if sampling.is_greedy else random_bits(sampling.seed, sequence.sample_index, sequence.num_output_tokens)
    banned_ids = mask.banned_ids
    if sequence.num_output_tokens < sampling.min_tokens:
        ends = banned(eos_token_ids.union(sampling.stop_token_ids), vocab_size)
        banned_ids = np.concatenate((banned_ids, ends))
    if mask.words_W is not None and len(banned_ids) and not leaves_a_token(mask.words_W, banned_ids):
        banned_ids = NO_IDS  # The constraint wins: without a token, the step of all sequences would fail.
    return Choice(sampling, bits, sequence.adjustment, banned_ids, mask.words_W)


def _check(logit: float, sequence: RunningSequence) -> None:
    if math.isnan(logit) or logit == math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: the model computed a logit of {logit}")
    if logit == -math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: no token can be chosen, all logits are -inf")
