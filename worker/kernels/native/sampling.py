"""Native adjustment of logits and choice of tokens, on the kernels' threads; the tokens are those of kernels/sampling.py.

source/sampling.c says what is computed for a row. This module passes the addresses of rows.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from worker.kernels.logit_adjustment import Adjustment, repetition_factor
from worker.kernels.native.bindings import ChoiceOfRow, ChooseCall
from worker.kernels.sampling import Choice, Chosen, Logits, exponent_factor, least_weight


class NativeChooser:
    """A `ChooseTokens` in native code. Only one thread may call it at a time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch = np.empty(0, np.uint8)

    def __call__(self, rows: Sequence[Logits], choices: Sequence[Choice]) -> list[Chosen]:
        if not rows:
            return []
        vocab_size, num_threads = len(rows[0]), torch.get_num_threads()
        scratch_bytes = self._library.choose_scratch_bytes(vocab_size)
        if self._scratch.size < num_threads * scratch_bytes:
            self._scratch = np.empty(num_threads * scratch_bytes, np.uint8)
        token_ids, chosen_logits = (ctypes.c_int64 * len(rows))(), (ctypes.c_float * len(rows))()
        of_rows = (ChoiceOfRow * len(rows))(*map(_choice_of_row, rows, choices))
        call = ChooseCall(
            choices=ctypes.addressof(of_rows),
            token_ids=ctypes.addressof(token_ids),
            chosen_logits=ctypes.addressof(chosen_logits),
            scratch=self._scratch.ctypes.data,
            scratch_bytes=scratch_bytes,
            vocab_size=vocab_size,
        )
        self._library.set_threads(num_threads)
        self._library.choose_tokens(ctypes.byref(call), len(rows))
        return [Chosen(token_id, logit) for token_id, logit in zip(token_ids, chosen_logits, strict=True)]


def _choice_of_row(logits_V: Logits, choice: Choice) -> ChoiceOfRow:
    assert logits_V.flags.c_contiguous
    sampling = choice.sampling
    row = ChoiceOfRow(
        logits=logits_V.ctypes.data,
        bits=choice.bits,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        least_weight=least_weight(sampling.min_p),
        factor=0.0 if sampling.is_greedy else exponent_factor(sampling.temperature),
    )
    if len(choice.banned_ids):
        row.banned_ids, row.num_banned = choice.banned_ids.ctypes.data, len(choice.banned_ids)
    if choice.mask_W is not None:
        assert len(choice.mask_W) * 32 >= len(logits_V)
        row.mask = choice.mask_W.ctypes.data
    if choice.adjustment is not None:
        _add_adjustment(row, choice.adjustment)
    return row


def _add_adjustment(row: ChoiceOfRow, adjustment: Adjustment) -> None:
    if len(adjustment.bias):
        row.bias_ids, row.bias = adjustment.bias_ids.ctypes.data, adjustment.bias.ctypes.data
        row.num_bias = len(adjustment.bias)
    if (counts := adjustment.counts) is not None:
        row.counts, row.counts_stride, row.num_counts = counts.address, counts.rows.shape[1], counts.num_ids
        row.repetition_penalty = repetition_factor(adjustment.sampling.repetition_penalty)
        row.frequency_penalty = adjustment.sampling.frequency_penalty
        row.presence_penalty = adjustment.sampling.presence_penalty
