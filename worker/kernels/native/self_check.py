"""A comparison of the native kernels' bits with torch's on this machine, made once before a worker uses them."""

import math
from collections.abc import Iterator

import torch

from pagoda.models.formats.quantization.scheme import Layout, Scheme
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import IntegerKV
from worker.kernels.step_batch import StepBatch
from worker.weights.dequantize import GROUPED, stored_blocks
from worker.weights.grouped import BLOCK, GroupedWeight
from worker.weights.linear_format import StoredWeight
from worker.weights.quantized.integers import IntegerFormat

NUM_HEADS, NUM_KV_HEADS, HEAD_SIZE = 6, 2, 72
PAGE_SIZE, NUM_PAGES, CONTEXT = 5, 44, 100
NAN_ROWS = slice(5, 6)
"""The row with NaN in cases of thirteen rows. Smaller cases have no NaN, since no finite value in its row would be compared."""


def find_difference(kernels: IntegerKernels, reference: IntegerKernels) -> str | None:
    """Return the name of the first kernel whose bits differ from the reference's, or None."""
    for (name, result), (_, expected) in zip(_results(kernels), _results(reference), strict=True):
        if not _same_bits(result, expected):
            return name
    return None


def _same_bits(result: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return True if all values are equal. Zeros of either sign count as equal, and so do NaNs, since NaN must stay NaN."""
    return result.shape == expected.shape and bool(((result == expected) | (result.isnan() & expected.isnan())).all())


def _results(kernels: IntegerKernels) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the results of a few cases that cover each path through the native code, with NaN among finite numbers."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for num_tokens, inner in ((1, 64), (13, 77), (3, 2101)):
        x_TI = random(num_tokens, inner) * 3
        x_TI[NAN_ROWS, inner // 2] = math.nan
        yield "linear", kernels.linear(x_TI, kernels.pack_linear(random(37, inner), random(37)))
        yield "rms_norm", kernels.rms_norm(x_TI, random(inner), 1e-5)
    yield from _mixture_results(kernels)
    yield from _grouped_results(kernels)
    yield from _quantized_results(kernels)
    gate_up_TI = random(5, 2 * 1201) * 20
    # The indices include gates and ups, in whole vectors and after the last whole vector.
    gate_up_TI[4, ::600], gate_up_TI[4, 1::600], gate_up_TI[4, 2::600] = math.nan, math.inf, -math.inf
    yield "silu_mul", kernels.silu_mul(gate_up_TI)
    yield "gelu_tanh_mul", kernels.gelu_tanh_mul(gate_up_TI)
    yield "cap", kernels.cap(gate_up_TI, 30.0)
    yield "scale", kernels.scale(gate_up_TI, 48**0.5)
    yield "add", kernels.add(gate_up_TI, random(*gate_up_TI.shape))
    yield "gather_rows", kernels.gather_rows(gate_up_TI, torch.tensor([4, 0, 4]))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        yield "embed_floats", kernels.embed(kernels.pack_embedding(gate_up_TI.to(dtype)), torch.tensor([3, 4, 3]))
    heads_TNH, angles_TH = random(7, NUM_HEADS + 2 * NUM_KV_HEADS, HEAD_SIZE), random(7, HEAD_SIZE)
    nan_TNH = heads_TNH.clone()
    nan_TNH[2, 1, 3::30] = math.nan
    yield "rope", kernels.rope(heads_TNH[:, :NUM_HEADS], angles_TH, angles_TH.flip(1))
    yield "rope", kernels.rope(nan_TNH, angles_TH[:, :32].contiguous(), angles_TH[:, 32:64].contiguous())
    yield from _attention_results(kernels, heads_TNH)


def _grouped_results(kernels: IntegerKernels) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a result for each of GGML's integer types, with random bytes as blocks: some factors are NaN or infinite."""
    generator = torch.Generator().manual_seed(4)
    for ggml_type in GROUPED:
        for num_tokens, num_in in ((1, 256), (2, 256), (13, 512)):
            row_bytes = num_in // ggml_type.block_size * ggml_type.block_bytes
            blocks_OX = torch.randint(256, (37, row_bytes), generator=generator, dtype=torch.uint8)
            x_TI = torch.randn(num_tokens, num_in, generator=generator)
            _make_outstanding(x_TI)
            x_TI[NAN_ROWS, 7] = math.nan
            weight = stored_blocks(blocks_OX.numpy().data.cast("B"), ggml_type, (37, num_in))
            yield f"linear of {ggml_type.name}", kernels.linear(x_TI, kernels.pack_linear(weight))
        embedding = kernels.pack_embedding(weight)
        yield f"embedding of {ggml_type.name}", kernels.embed(embedding, torch.tensor([36, 0, 5]))


def _make_outstanding(x_TI: torch.Tensor) -> None:
    """Enlarge some blocks: one of every second row, and another of every third, so that a tile has rows with and without."""
    x_TI[::2, BLOCK : 2 * BLOCK] *= 30
    x_TI[::3, -BLOCK:] *= 40


def _quantized_results(kernels: IntegerKernels) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield results of a layout of quantized checkpoints with each size of group, scales of either size and inputs out of order."""
    generator = torch.Generator().manual_seed(6)
    num_out, num_in = 40, 256
    for group_size, dtype in ((32, torch.float16), (64, torch.float16), (128, torch.bfloat16), (128, torch.float32)):
        scheme = Scheme(layout=Layout.GPTQ, bits=4, group_size=group_size, has_zeros=True)
        num_groups = num_in // group_size
        shapes = {"qweight": (num_in // 8, num_out), "qzeros": (num_groups, num_out // 8)}
        words = {
            name: torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int64).int()
            for name, shape in shapes.items()
        }
        weight = StoredWeight(
            format=IntegerFormat(scheme, has_zeros=True),
            shape=(num_out, num_in),
            parts={**words, "scales": torch.randn(num_groups, num_out, generator=generator).to(dtype)},
            input_order_I=torch.randperm(num_in, generator=generator),
        )
        for num_tokens in (1, 2, 13):
            x_TI = torch.randn(num_tokens, num_in, generator=generator)
            _make_outstanding(x_TI)
            x_TI[NAN_ROWS, 7] = math.nan
            yield f"linear of groups of {group_size}", kernels.linear(x_TI, kernels.pack_linear(weight))


def _mixture_results(kernels: IntegerKernels) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield results of experts with gate and up in the same format and in different ones, and with a shared expert."""
    generator = torch.Generator().manual_seed(5)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    num_experts, hidden, inner = 7, 8 * BLOCK, 40
    floats = [[random(inner, hidden), random(inner, hidden), random(hidden, inner)] for _ in range(num_experts)]
    integers_OI = torch.randint(16, (inner, hidden), generator=generator, dtype=torch.int8)
    packed = [
        GroupedWeight(integers_OI=integers_OI, scale_OG=random(inner, 8), minimum_OG=random(inner, 8)) for _ in floats
    ]
    gates, ups, downs = zip(*floats, strict=True)
    for num_tokens, renormalizes, their_ups in ((1, True, ups), (13, False, packed), (40, True, ups)):
        x_TD, shared_gate = random(num_tokens, hidden), None if renormalizes else random(1, hidden)
        _make_outstanding(x_TD)
        x_TD[NAN_ROWS, 7] = math.nan
        router = kernels.pack_router(random(num_experts, hidden), 3, renormalizes=renormalizes, shared_gate=shared_gate)
        routing_TE = kernels.route(x_TD, router)
        yield "route", routing_TE
        experts = kernels.pack_experts(gates, their_ups, downs, 3)
        shared_TD = None if renormalizes else random(num_tokens, hidden)
        yield "experts", kernels.experts(x_TD, routing_TE, experts, shared_TD)


def _attention_results(kernels: IntegerKernels, new_TNH: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield results for a sequence that decodes and one whose next six tokens are computed, each after CONTEXT others."""
    old_TNH = torch.randn(2 * CONTEXT, 2 * NUM_KV_HEADS, HEAD_SIZE, generator=torch.Generator().manual_seed(2))
    tables_SB = torch.randperm(NUM_PAGES, generator=torch.Generator().manual_seed(3)).view(2, -1)
    kv = kernels.allocate_kv(NUM_PAGES, PAGE_SIZE, NUM_KV_HEADS, HEAD_SIZE)
    assert isinstance(kv, IntegerKV)
    old_k_TNH, old_v_TNH = old_TNH.tensor_split(2, dim=1)
    kernels.write_kv(kv, old_k_TNH, old_v_TNH, _batch(tables_SB, (0, 0), (CONTEXT, CONTEXT)))
    batch = _batch(tables_SB, (CONTEXT, CONTEXT), (CONTEXT + 1, CONTEXT + 6))
    q_TNH, k_TNH, v_TNH = new_TNH.tensor_split([NUM_HEADS, NUM_HEADS + NUM_KV_HEADS], dim=1)
    kernels.write_kv(kv, k_TNH, v_TNH, batch)
    yield "write_kv", kv.integers
    yield "write_kv", kv.scales
    for window, logit_cap in ((None, None), (20, 5.0)):
        yield "attention", kernels.attention(q_TNH, kv, batch, 0.3, window, logit_cap)


def _batch(tables_SB: torch.Tensor, starts: tuple[int, int], ends: tuple[int, int]) -> StepBatch:
    spans = [torch.arange(start, end) for start, end in zip(starts, ends, strict=True)]
    slots = [
        table[span // PAGE_SIZE] * PAGE_SIZE + span % PAGE_SIZE for table, span in zip(tables_SB, spans, strict=True)
    ]
    positions_T = torch.cat(spans)
    return StepBatch(
        token_ids_T=torch.zeros_like(positions_T),
        positions_T=positions_T,
        slots_T=torch.cat(slots),
        query_starts=(0, len(spans[0]), len(positions_T)),
        context_lens=ends,
        block_tables_SB=tables_SB,
        sample_rows_R=torch.arange(len(positions_T)),
    )
