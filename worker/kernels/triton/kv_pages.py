"""One layer's keys and values in pages on a GPU: the layout that all Triton kernels share, and the kernel that writes it.

KV memory is one tensor [pages, 2 K, P, H], the same as in attention_plan.py:

    page 0                                                page 1
    ┌───────────────┬─────┬───────────────┬──────────┬──┬───────────────┬──
    │ keys, head 0  │  …  │ keys, head K-1│ values, 0│… │ keys, head 0  │ …
    │ P rows of H   │     │               │          │  │               │
    └───────────────┴─────┴───────────────┴──────────┴──┴───────────────┴──

A program of an attention kernel reads one head's keys, page by page: P * H contiguous numbers, 2 KiB for 16 tokens of 64
bfloat16. So each load of a warp reads whole cache lines, regardless of the order of the pages. A page is contiguous, so it can be
copied in one piece.

Legend as in step_batch.py, and K KV heads.
"""

import torch
import triton
import triton.language as tl

WRITE_WARPS = 4
"""Warps of the kernel. A token's keys, 8 heads of 128, are 1024 float32: two loads of 16 bytes for each of 128 threads."""


def kv_shape(num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> tuple[int, int, int, int]:
    return num_pages, 2 * num_kv_heads, page_size, head_size


def as_rows(x_TNH: torch.Tensor) -> torch.Tensor:
    """Return the tensor with each token's [N, H] contiguous; a view into wider rows, as layers make them, already is."""
    is_row = x_TNH.stride(2) == 1 and x_TNH.stride(1) == x_TNH.shape[2]
    return x_TNH if is_row else x_TNH.contiguous()


def write_kv(kv: torch.Tensor, k_TKH: torch.Tensor, v_TKH: torch.Tensor, slots_T: torch.Tensor) -> None:
    """Write each token's keys and values into its slot, rounded to the format of the memory."""
    num_tokens, num_kv_heads, head_size = k_TKH.shape
    k_TKH, v_TKH = as_rows(k_TKH), as_rows(v_TKH)
    launch = write_kv_launch(num_kv_heads, kv.shape[2], head_size)
    write_kv_kernel[(num_tokens,)](kv, k_TKH, v_TKH, slots_T, k_TKH.stride(0), v_TKH.stride(0), **launch)


def write_kv_launch(num_kv_heads: int, page_size: int, head_size: int) -> dict[str, int]:
    """Return the constants and options with which the kernel is compiled."""
    return {
        "NUM_KV_HEADS": num_kv_heads,
        "PAGE_SIZE": page_size,
        "HEAD_SIZE": head_size,
        "BLOCK_HEADS": triton.next_power_of_2(num_kv_heads),
        "BLOCK_HEAD_SIZE": triton.next_power_of_2(head_size),
        "num_warps": WRITE_WARPS,
    }


@triton.jit
def write_kv_kernel(
    kv_ptr,
    k_ptr,
    v_ptr,
    slots_ptr,
    k_stride,
    v_stride,
    NUM_KV_HEADS: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_HEAD_SIZE: tl.constexpr,
):
    """Write the keys and values of all heads of one token. There is one program per token."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + token)
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    column = tl.arange(0, BLOCK_HEAD_SIZE)[None, :]
    exists = (head < NUM_KV_HEADS) & (column < HEAD_SIZE)
    source = head * HEAD_SIZE + column
    key_row = (slot // PAGE_SIZE * (2 * NUM_KV_HEADS) + head) * PAGE_SIZE + slot % PAGE_SIZE
    keys = kv_ptr + key_row * HEAD_SIZE + column
    values = keys + NUM_KV_HEADS * PAGE_SIZE * HEAD_SIZE
    k = tl.load(k_ptr + token * k_stride + source, mask=exists)
    v = tl.load(v_ptr + token * v_stride + source, mask=exists)
    tl.store(keys, k.to(kv_ptr.dtype.element_ty), mask=exists)
    tl.store(values, v.to(kv_ptr.dtype.element_ty), mask=exists)
