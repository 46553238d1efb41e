"""Sampling: the next token of each sequence from its row of logits, and log-probabilities.

A row's token depends only on its own logits, parameters and random number, never on other rows of the batch. Random numbers
come from philox.py. Logits are adjusted in kernels/logit_adjustment.py and tokens chosen in kernels/sampling.py, or both in
native code that gives the same tokens.

Legend: R sampled rows, V vocabulary.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pagoda.wire.logprobs import TokenLogprobs
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
) -> list[int]:
    """Return the next token of each row's sequence. Raises SamplingError if no token can be chosen."""
    vocab_size = logits_RV.shape[1]
    chosen = choose(list(logits_RV), [_choice(sequence, eos_token_ids, vocab_size) for sequence in sequences])
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


def _choice(sequence: RunningSequence, eos_token_ids: frozenset[int], vocab_size: int) -> Choice:
    sampling = sequence.sampling
    bits = 0 if sampling.is_greedy else random_bits(sampling.seed, sequence.sample_index, sequence.num_output_tokens)
    if sequence.num_output_tokens >= sampling.min_tokens:
        return Choice(sampling, bits, sequence.adjustment)
    ends = eos_token_ids.union(sampling.stop_token_ids)
    return Choice(sampling, bits, sequence.adjustment, banned(ends, vocab_size))


def _check(logit: float, sequence: RunningSequence) -> None:
    if math.isnan(logit) or logit == math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: the model computed a logit of {logit}")
    if logit == -math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: no token can be chosen, all logits are -inf")
