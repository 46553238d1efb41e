"""The pass over a range of keys that decode and prefill share, block by block, with an online softmax.

Each block of keys is read once, through the block table, and serves all query rows of the program: the query heads of one KV
head, of one token or of several. Sums are float32; factors of products have the format of KV memory, which is what a GPU's
matrix units multiply.

Blocks start at multiples of their size and are visited in order, and keys that a row must not see have a weight of exactly
zero. So the terms of a row's sums and their order depend only on its own sequence, not on other rows or the batch.

Legend as in kv_pages.py, and M query rows of a program, L keys of a block, G query heads per KV head.
"""

from dataclasses import dataclass

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""True if Triton's interpreter runs the kernels. Triton reads this setting when kernels are defined, as this module does."""
NO_WINDOW = 1 << 30
"""A window longer than any context."""

MIN_BLOCK_ROWS = 16
"""Minimum rows of a matrix unit. A smaller group is padded, which costs nothing, since decoding waits for memory."""
MAX_BLOCK_ELEMENTS = 64 * 128
"""Maximum elements of a block of keys: 16 KiB of bfloat16, so that keys and values in two stages fit gfx942's 64 KiB of shared
memory."""
MAX_BLOCK_KEYS = 64
"""Maximum keys of a block. The scores of more keys would need more registers than the accumulator."""
MIN_BLOCK_KEYS = 16
MIN_BLOCK_HEAD_SIZE = 16
"""Minimum head size of a block: a matrix unit multiplies over at least 16 factors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """The sizes for which kernels are compiled, given by the model and the page size."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    page_size: int

    @property
    def group(self) -> int:
        """Number of query heads per KV head, G."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRule:
    """The rule by which a query scores keys, and the number of keys that it sees."""

    scale: float
    window: int | None = None
    """Number of last keys that a query sees, including its own; None means all."""
    cap: float | None = None
    """Limit of the scores: cap * tanh(score / cap)."""

    @property
    def arguments(self) -> tuple[float, int, float]:
        """The kernels' arguments `scale`, `window` and `cap`."""
        return self.scale, NO_WINDOW if self.window is None else self.window, 0.0 if self.cap is None else self.cap


def key_constants(shape: HeadShape, element_bytes: int, *, has_cap: bool) -> dict[str, int]:
    """Return the constants with which `attend_keys` and its callers are compiled."""
    block_head_size = max(MIN_BLOCK_HEAD_SIZE, triton.next_power_of_2(shape.head_size))
    fitting_keys = MAX_BLOCK_ELEMENTS * 2 // (block_head_size * element_bytes)
    return {
        "NUM_KV_HEADS": shape.num_kv_heads,
        "GROUP": shape.group,
        "PAGE_SIZE": shape.page_size,
        "HEAD_SIZE": shape.head_size,
        "BLOCK_HEAD_SIZE": block_head_size,
        "HAS_CAP": has_cap,
        "BLOCK_KEYS": max(MIN_BLOCK_KEYS, min(MAX_BLOCK_KEYS, fitting_keys)),
    }


@triton.jit
def attend_keys(
    q_MH,
    position_M,
    kv_ptr,
    table_ptr,
    kv_head,
    first_key,
    end_key,
    scale,
    window,
    cap,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_HEAD_SIZE: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Attend over keys [first_key, end_key), where `first_key` is a multiple of BLOCK_KEYS.

    Return, for each row, the largest score (an exponent of 2), the sum of weights relative to it, and the weighted sum of values.
    Each row must see at least one of the keys.
    """
    column = tl.arange(0, BLOCK_HEAD_SIZE)
    max_M = tl.full([q_MH.shape[0]], float("-inf"), tl.float32)
    sum_M = tl.zeros([q_MH.shape[0]], tl.float32)
    out_MH = tl.zeros([q_MH.shape[0], BLOCK_HEAD_SIZE], tl.float32)
    for start in range(first_key, end_key, BLOCK_KEYS):
        key_L = start + tl.arange(0, BLOCK_KEYS)
        page_L = tl.load(table_ptr + key_L // PAGE_SIZE, mask=key_L < end_key, other=0)
        row_L = (page_L * (2 * NUM_KV_HEADS) + kv_head) * PAGE_SIZE + key_L % PAGE_SIZE
        keys = kv_ptr + row_L[:, None] * HEAD_SIZE + column[None, :]
        # Memory past the sequence's end may hold anything, even NaN, so it is not read.
        exists_LH = (key_L < end_key)[:, None] & (column < HEAD_SIZE)[None, :]
        k_LH = tl.load(keys, mask=exists_LH, other=0.0)
        v_LH = tl.load(keys + NUM_KV_HEADS * PAGE_SIZE * HEAD_SIZE, mask=exists_LH, other=0.0)

        score_ML = dot(q_MH, tl.trans(k_LH), tl.zeros([q_MH.shape[0], BLOCK_KEYS], tl.float32)) * scale
        if HAS_CAP:
            score_ML = cap * (2 * tl.sigmoid(2 * score_ML / cap) - 1)  # cap * tanh(score / cap)
        sees_ML = (key_L[None, :] <= position_M[:, None]) & (key_L[None, :] > position_M[:, None] - window)
        score_ML = tl.where(sees_ML, score_ML * LOG2_E, float("-inf"))

        new_max_M = tl.maximum(max_M, tl.max(score_ML, 1))
        # If a row has seen no key yet, any finite number instead of -inf gives weights of zero.
        base_M = tl.where(new_max_M == float("-inf"), 0.0, new_max_M)
        weight_ML = tl.exp2(score_ML - base_M[:, None])
        rescale_M = tl.exp2(max_M - base_M)
        sum_M = sum_M * rescale_M + tl.sum(weight_ML, 1)
        out_MH = dot(weight_ML.to(v_LH.dtype), v_LH, out_MH * rescale_M[:, None])
        max_M = new_max_M
    return max_M, sum_M, out_MH


@triton.jit
def dot(a, b, sums):
    """Return sums + a b, in float32."""
    if INTERPRETED:
        # The interpreter would multiply the integers in which it stores bfloat16. Widening changes no product.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def first_visible(position, window, BLOCK: tl.constexpr):
    """Return the multiple of BLOCK at or before the first key that a query at `position` sees."""
    return tl.maximum(position - window + 1, 0) // BLOCK * BLOCK
