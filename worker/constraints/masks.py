"""Masks: the tokens that may come next, as one bit for each token.

Legend: W int32 words of a mask; bit i % 32 of word i // 32 stands for token i.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.constraints.answer import NextTokens

NO_IDS = np.empty(0, np.int32)


class RowMask(NamedTuple):
    """The tokens that may come next in a row of logits."""

    words_W: NDArray[np.int32] | None = None
    """The bits of the tokens that may come next; None for all."""
    banned_ids: NDArray[np.int32] = NO_IDS
    """Tokens that may not come next."""
    is_failed: bool = False
    """True if the grammar has failed, so that the sequence may only end."""


NO_MASK = RowMask()


def row_mask(allowed: NextTokens, eos_token_ids: Sequence[int], words_W: NDArray[np.int32]) -> RowMask:
    """Return the mask of the tokens, in the memory `words_W`. If the matcher fails, they are those that end the sequence."""
    if allowed.is_free:
        return RowMask(banned_ids=np.array(allowed.banned_ids, np.int32))
    token_ids = allowed.token_ids
    if allowed.matcher is None or not allowed.matcher.fill(words_W):
        words_W[:] = 0
    is_failed = allowed.is_failed or (allowed.matcher is not None and allowed.matcher.is_broken)
    if is_failed:
        token_ids = (*token_ids, *eos_token_ids)
    if token_ids:
        _set_bits(words_W, token_ids)
    # A model may have no token that ends a sequence. Then a failed matcher leaves the answer free: without any token, the step of
    # all sequences would fail.
    return RowMask(words_W, is_failed=is_failed) if words_W.any() else RowMask()


def num_words(vocab_size: int) -> int:
    """Return the number of words of a mask."""
    return -(-vocab_size // 32)


def mask_of(token_ids: Sequence[int], vocab_size: int) -> NDArray[np.int32]:
    """Return the mask that has only these tokens."""
    words_W = np.zeros(num_words(vocab_size), np.int32)
    _set_bits(words_W, token_ids)
    return words_W


def leaves_a_token(words_W: NDArray[np.int32], banned_ids: NDArray[np.int32]) -> bool:
    """Return True if the mask has a token that is not banned."""
    left_W = words_W.copy()
    np.bitwise_and.at(left_W.view(np.uint32), banned_ids >> 5, ~_bits(banned_ids))
    return bool(left_W.any())


def _set_bits(words_W: NDArray[np.int32], token_ids: Sequence[int]) -> None:
    ids = np.array(token_ids, np.int32)
    np.bitwise_or.at(words_W.view(np.uint32), ids >> 5, _bits(ids))


def _bits(ids: NDArray[np.int32]) -> NDArray[np.uint32]:
    """Return for each id a word that has only its bit."""
    return np.uint32(1) << (ids & 31).astype(np.uint32)
