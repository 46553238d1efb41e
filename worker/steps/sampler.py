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
from worker.constraints.masks import NO_MASK, RowMask, leaves_a_token
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


def token_logprobs(
    logits_V: NDArray[np.float32], token_id: int, num_top: int, named_ids: Sequence[int] = ()
) -> TokenLogprobs:
    """Return, from the raw logits, the token's log-probability and those of the `num_top` most probable tokens, best first.

    With `named_ids`, the others are these tokens, in their order.
    """
    shifted_V = logits_V.astype(np.float64) - float(logits_V.max())
    log_total = math.log(float(np.exp(shifted_V).sum()))
    top_ids = largest(logits_V, num_top).tolist() if num_top and not named_ids else named_ids
    top = [(top_id, float(shifted_V[top_id]) - log_total) for top_id in top_ids]
    if not named_ids:
        # The sort is stable and the ids ascend, so the lowest id comes first among equals.
        top.sort(key=lambda entry: -entry[1])
    return TokenLogprobs(logprob=float(shifted_V[token_id]) - log_total, top=tuple(top))


def _choice(sequence: RunningSequence, eos_token_ids: frozenset[int], vocab_size: int, mask: RowMask) -> Choice:
    sampling = sequence.sampling
    bits = 0 if sampling.is_greedy else random_bits(sampling.seed, sequence.sample_index, sequence.num_output_tokens)
    limits, bans = sequence.limits, []
    if limits is not None:
        mask = _within(mask, limits.allowed_W)
        bans.append(limits.banned_ids(sequence.token_ids, sequence.num_prompt_tokens))
    if sequence.num_output_tokens < sampling.min_tokens:
        bans.append(banned(eos_token_ids.union(sampling.stop_token_ids), vocab_size))
    if bans:
        mask = _without(mask, bans, vocab_size)
    return Choice(sampling, bits, sequence.adjustment, mask.banned_ids, mask.words_W)


# Without a token, the step of all sequences would fail. So what the request says yields to its constraint, and its bans yield to
# the tokens that it allows.


def _within(mask: RowMask, allowed_W: NDArray[np.int32] | None) -> RowMask:
    """Return the mask with only the allowed tokens, or the same mask if none of its tokens is allowed."""
    if allowed_W is None:
        return mask
    words_W = allowed_W if mask.words_W is None else mask.words_W & allowed_W
    return mask._replace(words_W=words_W) if leaves_a_token(words_W, mask.banned_ids) else mask


def _without(mask: RowMask, bans: Sequence[NDArray[np.int32]], vocab_size: int) -> RowMask:
    """Return the mask with more banned tokens, or the same mask if that would leave no token."""
    banned_ids = np.concatenate((mask.banned_ids, *bans))
    if mask.words_W is not None:
        is_possible = not len(banned_ids) or leaves_a_token(mask.words_W, banned_ids)
    else:
        is_possible = len(banned_ids) < vocab_size or len(np.unique(banned_ids)) < vocab_size
    return mask._replace(banned_ids=banned_ids) if is_possible else mask


def _check(logit: float, sequence: RunningSequence) -> None:
    if math.isnan(logit) or logit == math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: the model computed a logit of {logit}")
    if logit == -math.inf:
        raise SamplingError(f"sequence {sequence.sequence_id}: no token can be chosen, all logits are -inf")
