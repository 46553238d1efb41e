"""Attention of decoding sequences: one query each, over all earlier keys.

Decoding reads all KV memory of a sequence for little arithmetic, so memory bandwidth limits it, and even a few sequences should
occupy the whole GPU. Therefore there are two passes. The first has a program for each sequence, KV head and split of
SPLIT_KEYS keys; the query heads of a KV head are the rows of one program and share its loads. The second joins the splits of a
sequence, in order.

Splits have a fixed size, not a fixed number. So the bounds of a context's splits, and the bits of the result, depend only on
its length, never on the number of sequences in the batch. One pass per sequence would achieve that too, but a single long
sequence would then occupy only as many of a GPU's hundred processors as it has KV heads.

Legend as in online_softmax.py, and D decoding sequences, C splits of the longest one.
"""

import torch
import triton
import triton.language as tl

from worker.kernels.triton.launch_plan import LaunchPlan
from worker.kernels.triton.online_softmax import (
    MIN_BLOCK_ROWS,
    HeadShape,
    ScoreRule,
    attend_keys,
    first_visible,
    key_constants,
)

SPLIT_KEYS = 512
"""Keys of a split: eight blocks. They are enough that a program's start and the second pass cost little (the partial result of
one head is as large as one or two of its keys). They are few enough that one sequence of 8192 tokens with 8 KV heads makes 128
programs, one for each processor of an H100."""
SPLIT_WARPS = 4
SPLIT_STAGES = 2
"""Pipeline stages: one block of keys and values is loaded while the previous one is computed."""
JOIN_WARPS = 1
"""Warps of the second pass, whose programs have one row of up to 256 numbers."""


def split_launch(shape: HeadShape, element_bytes: int, *, has_cap: bool) -> dict[str, int]:
    """Return the constants and options with which the first pass is compiled."""
    return {
        **key_constants(shape, element_bytes, has_cap=has_cap),
        "BLOCK_ROWS": max(MIN_BLOCK_ROWS, triton.next_power_of_2(shape.group)),
        "SPLIT_KEYS": SPLIT_KEYS,
        "num_warps": SPLIT_WARPS,
        "num_stages": SPLIT_STAGES,
    }


def join_launch(shape: HeadShape) -> dict[str, int]:
    """Return the constants and options with which the second pass is compiled."""
    return {
        "NUM_HEADS": shape.num_heads,
        "HEAD_SIZE": shape.head_size,
        "BLOCK_HEAD_SIZE": triton.next_power_of_2(shape.head_size),
        "SPLIT_KEYS": SPLIT_KEYS,
        "num_warps": JOIN_WARPS,
    }


def paged_decode(
    out_TNH: torch.Tensor,
    q_TNH: torch.Tensor,
    kv: torch.Tensor,
    tables_SB: torch.Tensor,
    plan: LaunchPlan,
    shape: HeadShape,
    rule: ScoreRule,
) -> None:
    """Fill the rows of `out_TNH` that belong to the plan's decodes."""
    decodes_D3, window = plan.decodes_D3, rule.arguments[1]
    D, N, C = len(decodes_D3), shape.num_heads, _num_splits(plan.max_context, window)
    mean_DNCH = torch.empty((D, N, C, shape.head_size), dtype=torch.float32, device=kv.device)
    log_weight_DNC = torch.empty((D, N, C), dtype=torch.float32, device=kv.device)
    decode_split_kernel[(D, shape.num_kv_heads, C)](
        mean_DNCH,
        log_weight_DNC,
        q_TNH,
        kv,
        tables_SB,
        decodes_D3,
        q_TNH.stride(0),
        tables_SB.stride(0),
        C,
        *rule.arguments,
        **split_launch(shape, kv.element_size(), has_cap=rule.cap is not None),
    )
    decode_join_kernel[(D, N)](out_TNH, mean_DNCH, log_weight_DNC, decodes_D3, C, window, **join_launch(shape))


def _num_splits(max_context: int, window: int) -> int:
    """Return the maximum number of splits; a window may touch one split more than it fills."""
    return -(-min(max_context, window + SPLIT_KEYS) // SPLIT_KEYS)


@triton.jit
def decode_split_kernel(
    mean_ptr,
    log_weight_ptr,
    q_ptr,
    kv_ptr,
    tables_ptr,
    decodes_ptr,
    q_stride,
    table_stride,
    num_splits,
    scale,
    window,
    cap,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_HEAD_SIZE: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
    HAS_CAP: tl.constexpr,
):
    """Compute the weighted mean of one split's values, and the logarithm of its weight.

    There is one program per sequence, KV head and split.
    """
    decode, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    sequence = tl.load(decodes_ptr + decode * 3)
    query_row = tl.load(decodes_ptr + decode * 3 + 1).to(tl.int64)
    context = tl.load(decodes_ptr + decode * 3 + 2)
    split_start = first_visible(context - 1, window, SPLIT_KEYS) + split * SPLIT_KEYS
    if split_start < context:
        row = tl.arange(0, BLOCK_ROWS)
        column = tl.arange(0, BLOCK_HEAD_SIZE)
        exists_MH = (row < GROUP)[:, None] & (column < HEAD_SIZE)[None, :]
        head_M = kv_head * GROUP + row
        q_MH = tl.load(
            q_ptr + query_row * q_stride + head_M[:, None] * HEAD_SIZE + column[None, :], mask=exists_MH, other=0.0
        )
        max_M, sum_M, out_MH = attend_keys(
            q_MH.to(kv_ptr.dtype.element_ty),
            tl.full([BLOCK_ROWS], context - 1, tl.int32),
            kv_ptr,
            tables_ptr + sequence.to(tl.int64) * table_stride,
            kv_head,
            tl.maximum(split_start, first_visible(context - 1, window, BLOCK_KEYS)),
            tl.minimum(split_start + SPLIT_KEYS, context),
            scale,
            window,
            cap,
            NUM_KV_HEADS,
            PAGE_SIZE,
            HEAD_SIZE,
            BLOCK_HEAD_SIZE,
            BLOCK_KEYS,
            HAS_CAP,
        )
        part_M = (decode * NUM_KV_HEADS * GROUP + head_M) * num_splits + split
        parts = mean_ptr + part_M[:, None] * HEAD_SIZE + column[None, :]
        tl.store(parts, out_MH / sum_M[:, None], mask=exists_MH)
        tl.store(log_weight_ptr + part_M, max_M + tl.log2(sum_M), mask=row < GROUP)


@triton.jit
def decode_join_kernel(
    out_ptr,
    mean_ptr,
    log_weight_ptr,
    decodes_ptr,
    num_splits,
    window,
    NUM_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_HEAD_SIZE: tl.constexpr,
    SPLIT_KEYS: tl.constexpr,
):
    """Compute the mean of the splits, by their weights. There is one program per sequence and query head."""
    decode, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    query_row = tl.load(decodes_ptr + decode * 3 + 1).to(tl.int64)
    context = tl.load(decodes_ptr + decode * 3 + 2)
    num_used = tl.cdiv(context - first_visible(context - 1, window, SPLIT_KEYS), SPLIT_KEYS)
    column = tl.arange(0, BLOCK_HEAD_SIZE)
    exists = column < HEAD_SIZE
    first_part = (decode * NUM_HEADS + head) * num_splits
    largest = tl.load(log_weight_ptr + first_part)
    total = 1.0
    out_H = tl.load(mean_ptr + first_part * HEAD_SIZE + column, mask=exists, other=0.0)
    for split in range(1, num_used):
        log_weight = tl.load(log_weight_ptr + first_part + split)
        mean_H = tl.load(mean_ptr + (first_part + split) * HEAD_SIZE + column, mask=exists, other=0.0)
        new_largest = tl.maximum(largest, log_weight)
        rescale, weight = tl.exp2(largest - new_largest), tl.exp2(log_weight - new_largest)
        total = total * rescale + weight
        out_H = out_H * rescale + mean_H * weight
        largest = new_largest
    tl.store(out_ptr + (query_row * NUM_HEADS + head) * HEAD_SIZE + column, out_H / total, mask=exists)
