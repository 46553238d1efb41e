"""Attention of sequences that compute several tokens: causal, over all earlier keys and those of the chunk itself.

There is one program per tile and KV head. A tile is as many consecutive tokens of one sequence as fill PREFILL_ROWS rows with
their query heads of that KV head. So a block of keys serves the same number of rows, regardless of the grouping.

Legend as in online_softmax.py, and W tiles of the step.
"""

import torch
import triton
import triton.language as tl

from worker.kernels.triton.launch_plan import LaunchPlan
from worker.kernels.triton.online_softmax import HeadShape, ScoreRule, attend_keys, first_visible, key_constants

PREFILL_ROWS = 64
"""Rows of a tile. With bfloat16 each byte of keys that is read is used in 64 multiply-adds. With more rows the accumulator, rows
x head size in float32, would not fit the registers of four warps for head sizes above 128."""
PREFILL_WARPS = 4
"""Warps of a program: one for each 16 rows, the number that a matrix unit takes."""
PREFILL_STAGES = 2
"""Pipeline stages, as in paged_decode.py."""


def tile_tokens(shape: HeadShape) -> int:
    return max(1, PREFILL_ROWS // shape.group)


def prefill_launch(shape: HeadShape, element_bytes: int, *, has_cap: bool) -> dict[str, int]:
    """Return the constants and options with which the kernel is compiled."""
    return {
        **key_constants(shape, element_bytes, has_cap=has_cap),
        "BLOCK_ROWS": max(PREFILL_ROWS, triton.next_power_of_2(shape.group)),
        "num_warps": PREFILL_WARPS,
        "num_stages": PREFILL_STAGES,
    }


def paged_prefill(
    out_TNH: torch.Tensor,
    q_TNH: torch.Tensor,
    kv: torch.Tensor,
    tables_SB: torch.Tensor,
    plan: LaunchPlan,
    shape: HeadShape,
    rule: ScoreRule,
) -> None:
    """Fill the rows of `out_TNH` that belong to the plan's tiles."""
    prefill_kernel[(len(plan.tiles_W4), shape.num_kv_heads)](
        out_TNH,
        q_TNH,
        kv,
        tables_SB,
        plan.tiles_W4,
        q_TNH.stride(0),
        tables_SB.stride(0),
        *rule.arguments,
        **prefill_launch(shape, kv.element_size(), has_cap=rule.cap is not None),
    )


@triton.jit
def prefill_kernel(
    out_ptr,
    q_ptr,
    kv_ptr,
    tables_ptr,
    tiles_ptr,
    q_stride,
    table_stride,
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
    HAS_CAP: tl.constexpr,
):
    tile, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    sequence = tl.load(tiles_ptr + tile * 4)
    first_row = tl.load(tiles_ptr + tile * 4 + 1).to(tl.int64)
    num_tokens = tl.load(tiles_ptr + tile * 4 + 2)
    first_position = tl.load(tiles_ptr + tile * 4 + 3)

    row = tl.arange(0, BLOCK_ROWS)
    token_M, head_M = row // GROUP, kv_head * GROUP + row % GROUP
    column = tl.arange(0, BLOCK_HEAD_SIZE)
    exists_MH = (token_M < num_tokens)[:, None] & (column < HEAD_SIZE)[None, :]
    inner_MH = head_M[:, None] * HEAD_SIZE + column[None, :]
    q_MH = tl.load(q_ptr + (first_row + token_M)[:, None] * q_stride + inner_MH, mask=exists_MH, other=0.0)
    _, sum_M, out_MH = attend_keys(
        q_MH.to(kv_ptr.dtype.element_ty),
        # Rows past the tile's last token use its position, because each row must see a key.
        first_position + tl.minimum(token_M, num_tokens - 1),
        kv_ptr,
        tables_ptr + sequence.to(tl.int64) * table_stride,
        kv_head,
        first_visible(first_position, window, BLOCK_KEYS),
        first_position + num_tokens,
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
    outs = out_ptr + (first_row + token_M)[:, None] * (NUM_KV_HEADS * GROUP * HEAD_SIZE) + inner_MH
    tl.store(outs, out_MH / sum_M[:, None], mask=exists_MH)
