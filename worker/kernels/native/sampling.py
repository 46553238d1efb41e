"""Choosing tokens in native code, the rows shared out over the kernels' threads: the tokens of kernels/sampling.py.

What is done to a row is said in source/sampling.c. Here rows become addresses.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import torch

from worker.kernels.native.library import ChoiceOfRow, ChooseCall
from worker.kernels.sampling import Choice, Logits, exponent_factor, least_weight


class NativeChooser:
    """Called by one thread at a time."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._scratch = np.empty(0, np.uint8)

    def __call__(self, rows: Sequence[Logits], choices: Sequence[Choice]) -> list[int]:
        if not rows:
            return []
        vocab_size, num_threads = len(rows[0]), torch.get_num_threads()
        scratch_bytes = self._library.choose_scratch_bytes(vocab_size)
        if self._scratch.size < num_threads * scratch_bytes:
            self._scratch = np.empty(num_threads * scratch_bytes, np.uint8)
        token_ids = (ctypes.c_int64 * len(rows))()
        of_rows = (ChoiceOfRow * len(rows))(*map(_choice_of_row, rows, choices))
        call = ChooseCall(
            choices=ctypes.addressof(of_rows),
            token_ids=ctypes.addressof(token_ids),
            scratch=self._scratch.ctypes.data,
            scratch_bytes=scratch_bytes,
            vocab_size=vocab_size,
        )
        self._library.set_threads(num_threads)
        self._library.choose_tokens(ctypes.byref(call), len(rows))
        return list(token_ids)


def _choice_of_row(logits_V: Logits, choice: Choice) -> ChoiceOfRow:
    assert logits_V.flags.c_contiguous
    sampling = choice.sampling
    return ChoiceOfRow(
        logits=logits_V.ctypes.data,
        bits=choice.bits,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        least_weight=least_weight(sampling.min_p),
        factor=0.0 if sampling.is_greedy else exponent_factor(sampling.temperature),
    )
