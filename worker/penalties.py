"""What changes the logits before a token is chosen: steps 1 to 3 of the order written in protos/v1/types.proto.

Works on one row of logits in float64. Knows nothing about temperature, filters or random numbers.
"""

from collections.abc import Iterable

import torch

from worker.sequence import RunningSequence


def adjusted_logits(logits_V: torch.Tensor, sequence: RunningSequence, eos_token_ids: frozenset[int]) -> torch.Tensor:
    """A new float64 row: bias added, ends banned until min_tokens, repeated tokens made less likely."""
    adjusted_V = logits_V.to(torch.float64, copy=True)
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


def _add_bias(logits_V: torch.Tensor, sequence: RunningSequence) -> None:
    bias = sequence.sampling.logit_bias
    if bias:
        logits_V[_ids(bias, logits_V)] += torch.tensor(list(bias.values()), dtype=torch.float64, device=logits_V.device)


def _ban_early_end(logits_V: torch.Tensor, sequence: RunningSequence, eos_token_ids: frozenset[int]) -> None:
    if sequence.num_output_tokens >= sequence.sampling.min_tokens:
        return
    # A stop id past the vocabulary can never be generated, so there is nothing to ban.
    banned = (
        token_id for token_id in eos_token_ids.union(sequence.sampling.stop_token_ids) if token_id < len(logits_V)
    )
    logits_V[_ids(banned, logits_V)] = -torch.inf


def _penalise_repetition(logits_V: torch.Tensor, sequence: RunningSequence) -> None:
    penalty = sequence.sampling.repetition_penalty
    if penalty == 1.0:
        return
    # A window of 0 means all tokens, and [-0:] is all of them.
    ids = _ids(set(sequence.token_ids[-sequence.sampling.repetition_window :]), logits_V)
    seen = logits_V[ids]
    logits_V[ids] = torch.where(seen > 0, seen / penalty, seen * penalty)


def _penalise_output(logits_V: torch.Tensor, sequence: RunningSequence) -> None:
    sampling, counts = sequence.sampling, sequence.output_counts
    if not counts or (sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0):
        return
    times = torch.tensor(list(counts.values()), dtype=torch.float64, device=logits_V.device)
    logits_V[_ids(counts, logits_V)] -= sampling.frequency_penalty * times + sampling.presence_penalty


def _ids(token_ids: Iterable[int], logits_V: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(token_ids), dtype=torch.int64, device=logits_V.device)
