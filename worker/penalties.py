"""What changes the logits before a token is chosen: steps 1 to 3 of the order written in protos/v1/types.proto.

Works on a float32 copy of one row of logits. What is done to a logit is rounded to float32 step by step, so it has one right
answer. Knows nothing about temperature, filters or random numbers.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from worker.sequence import RunningSequence


def adjusted_logits(
    logits_V: NDArray[np.float32], sequence: RunningSequence, eos_token_ids: frozenset[int]
) -> NDArray[np.float32]:
    """A new row: bias added, ends banned until min_tokens, repeated tokens made less likely."""
    adjusted_V = logits_V.copy()
    _add_bias(adjusted_V, sequence)
    _ban_early_end(adjusted_V, sequence, eos_token_ids)
    _penalise_repetition(adjusted_V, sequence)
    _penalise_output(adjusted_V, sequence)
    return adjusted_V


def needs_adjustment(sequence: RunningSequence) -> bool:
    sampling = sequence.sampling
    return (
        bool(sampling.logit_bias)
        or sequence.num_output_tokens < sampling.min_tokens
        or sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
    )


def _add_bias(logits_V: NDArray[np.float32], sequence: RunningSequence) -> None:
    bias = sequence.sampling.logit_bias
    if bias:
        logits_V[_ids(bias)] += np.fromiter(bias.values(), np.float64)


def _ban_early_end(logits_V: NDArray[np.float32], sequence: RunningSequence, eos_token_ids: frozenset[int]) -> None:
    if sequence.num_output_tokens >= sequence.sampling.min_tokens:
        return
    ends = eos_token_ids.union(sequence.sampling.stop_token_ids)
    # A stop id past the vocabulary can never be generated, so there is nothing to ban.
    logits_V[_ids(token_id for token_id in ends if token_id < len(logits_V))] = -np.inf


def _penalise_repetition(logits_V: NDArray[np.float32], sequence: RunningSequence) -> None:
    penalty = sequence.sampling.repetition_penalty
    if penalty == 1.0:
        return
    # A window of 0 means all tokens, and [-0:] is all of them.
    ids = _ids(set(sequence.token_ids[-sequence.sampling.repetition_window :]))
    seen = logits_V[ids]
    logits_V[ids] = np.where(seen > 0, seen / penalty, seen * penalty)


def _penalise_output(logits_V: NDArray[np.float32], sequence: RunningSequence) -> None:
    sampling, counts = sequence.sampling, sequence.output_counts
    if sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0:
        return
    times = np.fromiter(counts.values(), np.float64)
    logits_V[_ids(counts)] -= sampling.frequency_penalty * times + sampling.presence_penalty


def _ids(token_ids: Iterable[int]) -> NDArray[np.int64]:
    return np.fromiter(token_ids, np.int64)
