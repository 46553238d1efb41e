"""Changes to a row of logits before a token is chosen: logit bias, masks, banned tokens, and the penalties for repetition.

These are steps 1 to 3 of the order in protos/v1/types.proto; the others are in sampling.py.
Token counts are updated with each token, so that the cost of a penalty does not grow with the length of the sequence. The
reference implementation works on a float32 copy of the row. Each operation is rounded to float32, so each logit has one right
value, which native code computes too.

Legend: V vocabulary, W int32 words of a mask, C distinct tokens that are counted.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pagoda.wire.sampling import SamplingParams

LARGEST_LOGIT = np.finfo(np.float32).max
"""Limit of a logit after a repetition penalty near 0: an infinite logit would be reported as a broken model."""
LEAST_FACTOR = float(np.finfo(np.float32).tiny)


class TokenCounts:
    """The number of times each token occurs in the window of the repetition penalty, and in the output."""

    def __init__(self, token_ids: Sequence[int], *, num_prompt_tokens: int, window: int) -> None:
        """Count the tokens so far. `window` is the number of latest tokens that count for the repetition penalty; 0 means all."""
        in_window, output = token_ids[-window:], token_ids[num_prompt_tokens:]
        ids_C = np.unique(np.array([*in_window, *output], np.int32))
        self._window = window
        self._recent = deque(in_window) if window else None
        self._place = {token_id: place for place, token_id in enumerate(ids_C.tolist())}
        self._hold(_with_room(np.stack((ids_C, _times(ids_C, in_window), _times(ids_C, output)))))

    def _hold(self, rows: NDArray[np.int32]) -> None:
        """Store `rows`, int32 [3, capacity]: ids, counts in the window, counts in the output."""
        self.rows = rows
        self.address = rows.ctypes.data

    @property
    def num_ids(self) -> int:
        return len(self._place)

    @property
    def ids_C(self) -> NDArray[np.int32]:
        return self.rows[0, : self.num_ids]

    @property
    def in_window_C(self) -> NDArray[np.int32]:
        return self.rows[1, : self.num_ids]

    @property
    def in_output_C(self) -> NDArray[np.int32]:
        return self.rows[2, : self.num_ids]

    def count_output(self, token_id: int) -> None:
        """Count one more generated token; the oldest token leaves a full window."""
        place = self._place_of(token_id)
        self.rows[1, place] += 1
        self.rows[2, place] += 1
        if self._recent is not None:
            self._recent.append(token_id)
            if len(self._recent) > self._window:
                self.rows[1, self._place[self._recent.popleft()]] -= 1

    def copy(self) -> "TokenCounts":
        same = copy(self)
        same._recent = None if self._recent is None else deque(self._recent)
        same._place = dict(self._place)
        same._hold(self.rows.copy())
        return same

    def _place_of(self, token_id: int) -> int:
        place = self._place.setdefault(token_id, self.num_ids)
        if self.num_ids > self.rows.shape[1]:
            self._hold(_with_room(self.rows))
        self.rows[0, place] = token_id
        return place


@dataclass(slots=True, eq=False, kw_only=True)
class Adjustment:
    """The changes that a request's parameters make to each row of its sequence. `counts` is None if no penalty needs it."""

    sampling: SamplingParams
    bias_ids: NDArray[np.int32]
    bias: NDArray[np.float64]
    counts: TokenCounts | None

    @classmethod
    def of(cls, sampling: SamplingParams, token_ids: Sequence[int], num_prompt_tokens: int) -> "Adjustment | None":
        """Return the adjustment of a sequence with these tokens so far, or None if its parameters change nothing."""
        is_penalised = (
            sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        )
        if not is_penalised and not sampling.logit_bias:
            return None
        return cls(
            sampling=sampling,
            bias_ids=np.fromiter(sampling.logit_bias, np.int32),
            bias=np.fromiter(sampling.logit_bias.values(), np.float64),
            counts=TokenCounts(token_ids, num_prompt_tokens=num_prompt_tokens, window=sampling.repetition_window)
            if is_penalised
            else None,
        )

    def count_output(self, token_id: int) -> None:
        """Count one more generated token."""
        if self.counts is not None:
            self.counts.count_output(token_id)

    def after(self, token_ids: Iterable[int]) -> "Adjustment":
        """Return the adjustment that this one will be after more generated tokens."""
        if self.counts is None:
            return self
        later = replace(self, counts=self.counts.copy())
        for token_id in token_ids:
            later.count_output(token_id)
        return later


def repetition_factor(penalty: float) -> float:
    """Return the factor by which logits are divided or multiplied. Rounded to float32, it is not 0."""
    return max(penalty, LEAST_FACTOR)


def adjusted_logits(
    logits_V: NDArray[np.float32],
    adjustment: Adjustment | None,
    banned_ids: NDArray[np.int32],
    mask_W: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """Return a new row with the bias added, penalties applied to repeated tokens, and tokens that cannot be chosen at -inf.

    These are `banned_ids` and the tokens without a bit in `mask_W`.
    """
    adjusted_V = logits_V.copy()
    if adjustment is not None:
        adjusted_V[adjustment.bias_ids] += adjustment.bias
    if mask_W is not None:
        is_allowed_V = np.unpackbits(mask_W.view(np.uint8), count=len(logits_V), bitorder="little")
        adjusted_V[is_allowed_V == 0] = -np.inf
    adjusted_V[banned_ids] = -np.inf
    if adjustment is not None and adjustment.counts is not None:
        _penalise_repetition(adjusted_V, adjustment.counts, adjustment.sampling.repetition_penalty)
        _penalise_output(adjusted_V, adjustment.counts, adjustment.sampling)
    return adjusted_V


def _penalise_repetition(logits_V: NDArray[np.float32], counts: TokenCounts, penalty: float) -> None:
    if penalty == 1.0:
        return
    ids = counts.ids_C[counts.in_window_C > 0]
    seen, factor = logits_V[ids], np.float32(repetition_factor(penalty))
    with np.errstate(over="ignore"):
        raised = np.where(np.isinf(seen), seen, np.minimum(seen / factor, LARGEST_LOGIT))
        logits_V[ids] = np.where(seen > 0, raised, seen * factor)


def _penalise_output(logits_V: NDArray[np.float32], counts: TokenCounts, sampling: SamplingParams) -> None:
    if sampling.frequency_penalty == 0.0 and sampling.presence_penalty == 0.0:
        return
    is_output = counts.in_output_C > 0
    times = counts.in_output_C[is_output].astype(np.float64)
    logits_V[counts.ids_C[is_output]] -= sampling.frequency_penalty * times + sampling.presence_penalty


def _times(ids_C: NDArray[np.int32], token_ids: Sequence[int]) -> NDArray[np.int32]:
    places = np.searchsorted(ids_C, np.array(token_ids, np.int32))
    return np.bincount(places, minlength=len(ids_C)).astype(np.int32)


def _with_room(rows: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the same counts with twice the capacity, and room for at least 64 more tokens."""
    num_ids = rows.shape[1]
    return np.pad(rows, ((0, 0), (0, max(64, num_ids))))


def banned(token_ids: Iterable[int], vocab_size: int) -> NDArray[np.int32]:
    """Return the ids that are in the vocabulary; others can never be generated, so they need no ban."""
    return np.fromiter((token_id for token_id in token_ids if token_id < vocab_size), np.int32)
