"""Tests that each kernel of the integer mode is close to its float32 reference implementation."""

import math

import pytest
import torch

from tests.kernels.attention_batch import NUM_PAGES, attention_batch
from worker.kernels.hadamard_int8 import BLOCK, rotate
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import KV_FORMATS, IntegerKV
from worker.kernels.reference import ReferenceKernels
from worker.kernels.select import UnknownKernelsError, select_kernels
from worker.weights.grouped import GROUP_SIZES, GroupedWeight
from worker.weights.linear_format import Weight

INTEGER, REFERENCE = IntegerKernels(), ReferenceKernels()
ROWS = [1, 2, 17]


def near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inner", [5, 64, 576, 2500])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(rows: int, inner: int, bias: bool) -> None:
    """Test rows of any size, each with one element ten times as large as the others."""
    x_TI = random(rows, inner) * torch.logspace(-3, 3, rows)[:, None]
    x_TI[:, inner // 2] *= 10
    weight_OI, bias_O = random(24, inner, seed=1) * torch.logspace(-2, 0, 24)[:, None], random(24) if bias else None
    expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI, bias_O))
    actual = INTEGER.linear(x_TI, INTEGER.pack_linear(weight_OI, bias_O))
    for row, expected_row in zip(actual, expected, strict=True):
        assert near(row, expected_row, 3e-2)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("minima", [False, True])
def test_linear_with_integers_in_groups(rows: int, bias: bool, group_size: int, minima: bool) -> None:
    """Check that only the inputs are rounded: inputs that need no rounding give a result exact up to float32 rounding."""
    x_TI = random(rows, 96) * torch.logspace(-3, 3, rows)[:, None]
    bytes_TI = torch.randint(-126, 128, (rows, 96), generator=torch.Generator().manual_seed(2)).float()
    bytes_TI[:, ::32] = 127
    weight, bias_O = grouped_weight(24, 96, group_size, minima), random(24) if bias else None
    for inputs_TI, tolerance in ((x_TI, 3e-2), (bytes_TI, 1e-5)):
        expected = REFERENCE.linear(inputs_TI, REFERENCE.pack_linear(weight, bias_O))
        actual = INTEGER.linear(inputs_TI, INTEGER.pack_linear(weight, bias_O))
        for row, expected_row in zip(actual, expected, strict=True):
            assert near(row, expected_row, tolerance)


def test_several_weights_are_one_linear() -> None:
    x_TI, bias_O = random(3, 96), random(40)
    several: list[Weight] = [
        grouped_weight(8, 96, 16, minima=False),
        random(8, 96),
        grouped_weight(24, 96, 32, minima=True),
    ]
    expected_TO = torch.cat([INTEGER.linear(x_TI, INTEGER.pack_linear(weight)) for weight in several], dim=1)
    assert torch.equal(INTEGER.linear(x_TI, INTEGER.pack_linear(several, bias_O)), expected_TO + bias_O)


def grouped_weight(num_out: int, num_in: int, group_size: int, minima: bool) -> GroupedWeight:
    generator, shape = torch.Generator().manual_seed(1), (num_out, num_in // group_size)
    return GroupedWeight(
        integers_OI=torch.randint(0 if minima else -8, 16, (num_out, num_in), dtype=torch.int8, generator=generator),
        scale_OG=torch.rand(shape, generator=generator),
        minimum_OG=-8 * torch.rand(shape, generator=generator) if minima else None,
    )


def test_rotated_blocks_have_the_same_product() -> None:
    x_XGB, y_XGB = random(3, 2, BLOCK), random(3, 2, BLOCK, seed=1)
    products = (rotate(x_XGB) * rotate(y_XGB)).sum(dim=-1) / BLOCK
    assert near(products, (x_XGB * y_XGB).sum(dim=-1), 1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [5, 576, 4096])
def test_rms_norm(rows: int, size: int) -> None:
    x_TD = random(rows, size) * torch.logspace(-4, 4, rows)[:, None]
    weight_D = random(size, seed=1)
    assert near(INTEGER.rms_norm(x_TD, weight_D, 1e-5), REFERENCE.rms_norm(x_TD, weight_D, 1e-5), 1e-6)


@pytest.mark.parametrize("rows", ROWS)
def test_silu_mul(rows: int) -> None:
    gate_up_TI = random(rows, 66) * 10
    gate_up_TI[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -88.0])
    actual, expected = INTEGER.silu_mul(gate_up_TI), REFERENCE.silu_mul(gate_up_TI)
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("rows", ROWS)
def test_gelu_tanh_mul(rows: int) -> None:
    gate_up_TI = random(rows, 66) * 3
    gate_up_TI[0, :4] = torch.tensor([-2e9, 2e9, 0.0, -9.0])
    actual, expected = INTEGER.gelu_tanh_mul(gate_up_TI), REFERENCE.gelu_tanh_mul(gate_up_TI)
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_cap_and_scale() -> None:
    x_TD = torch.cat((random(3, 200) * 100, torch.linspace(-1e-3, 1e-3, 200)[None]))
    assert near(INTEGER.cap(x_TD, 30.0), REFERENCE.cap(x_TD, 30.0), 1e-6)
    assert torch.equal(INTEGER.scale(x_TD, 48**0.5), REFERENCE.scale(x_TD, 48**0.5))


def test_embed_has_the_floats_of_the_table() -> None:
    table_VD, ids_T = random(20, 48), torch.tensor([3, 0, 19, 3])
    assert torch.equal(INTEGER.embed(INTEGER.pack_embedding(table_VD), ids_T), table_VD[ids_T])


def test_add_and_gather_rows() -> None:
    x_TD, y_TD, rows_R = random(3, 20), random(3, 20, seed=1), torch.tensor([2, 0, 2])
    assert torch.equal(INTEGER.add(x_TD, y_TD), REFERENCE.add(x_TD, y_TD))
    assert torch.equal(INTEGER.gather_rows(x_TD, rows_R), REFERENCE.gather_rows(x_TD, rows_R))


def test_head_norm() -> None:
    """Test one weight per head, with heads that are a view of wider rows."""
    x_TNH, weight_NH = random(5, 9, 16)[:, :6], random(6, 16, seed=1)
    assert near(INTEGER.rms_norm(x_TNH, weight_NH, 1e-6), REFERENCE.rms_norm(x_TNH, weight_NH, 1e-6), 1e-6)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rotated_size", [8, 6])
def test_rope(rows: int, rotated_size: int) -> None:
    x_TNH, angles = random(rows, 3, 8), random(rows, rotated_size // 2)
    cos_TH = torch.cat((angles.cos(), angles.cos()), dim=1)
    sin_TH = torch.cat((-angles.sin(), angles.sin()), dim=1)
    rotated_TNH = INTEGER.rope(x_TNH, cos_TH, sin_TH)
    assert near(rotated_TNH, REFERENCE.rope(x_TNH, cos_TH, sin_TH), 1e-6)
    assert torch.equal(rotated_TNH[..., rotated_size:], x_TNH[..., rotated_size:])


def test_zero_and_non_finite_rows_stay_by_themselves() -> None:
    x_TI = random(4, 32)
    x_TI[1], x_TI[2, 3], x_TI[3, 5] = 0.0, math.nan, math.inf
    y_TO = INTEGER.linear(x_TI, INTEGER.pack_linear(random(8, 32)))
    assert y_TO[0].isfinite().all()
    assert torch.equal(y_TO[1], torch.zeros(8))
    assert not y_TO[2:].isfinite().any()


HEADS = [(4, 4, 16), (6, 2, 8), (5, 1, 64)]
"""Cases of (query heads, KV heads, head size)."""
PLANS = [
    [(1, 1)],
    [(1, 40), (1, 3), (1, 17), (1, 300)],
    [(33, 33)],
    [(5, 21), (1, 16), (16, 16), (2, 90)],
    [(300, 300)],
]
"""Plans, with (queries of this step, length of the context including them) for each sequence."""


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("page_size", [16, 7])
@pytest.mark.parametrize(("window", "logit_cap"), [(None, None), (1, None), (20, None), (33, 2.0), (None, 2.0)])
def test_attention(
    plan: list[tuple[int, int]],
    heads: tuple[int, int, int],
    page_size: int,
    window: int | None,
    logit_cap: float | None,
) -> None:
    num_heads, num_kv_heads, head_size = heads
    batch, whole = attention_batch(plan, page_size)
    num_keys = len(whole.slots_T)
    keys, values = random(num_keys, num_kv_heads, head_size), random(num_keys, num_kv_heads, head_size, seed=1)
    queries = random(len(batch.slots_T), num_heads, head_size, seed=2) * 3
    results = [attend_key_by_key(queries, keys, values, plan, window, logit_cap)]
    for kernels in (INTEGER, REFERENCE):
        kv = kernels.allocate_kv(NUM_PAGES, page_size, num_kv_heads, head_size)
        poison(kv)
        kernels.write_kv(kv, keys, values, whole)
        results.append(kernels.attention(queries, kv, batch, head_size**-0.5, window, logit_cap))
    assert near(results[1], results[0], 2e-3)
    assert near(results[2], results[0], 1e-5)


@pytest.mark.parametrize("head_size", [64, 80, 256])
def test_attention_over_int8(head_size: int) -> None:
    int8 = IntegerKernels(kv_format=KV_FORMATS["int8"])
    plan = [(5, 21), (1, 300)]
    batch, whole = attention_batch(plan, 16)
    keys, values = random(321, 2, head_size), random(321, 2, head_size, seed=1)
    # A block of 64 elements that is small keeps its precision beside a large one.
    values[..., :64] *= 1e-4
    queries = random(6, 6, head_size, seed=2)
    kv = int8.allocate_kv(NUM_PAGES, 16, 2, head_size)
    int8.write_kv(kv, keys, values, whole)
    result = int8.attention(queries, kv, batch, head_size**-0.5)
    expected = attend_key_by_key(queries, keys, values, plan, None, None)
    assert near(result[..., :64], expected[..., :64], 2e-2)
    assert near(result, expected, 2e-2)


def test_a_few_elements_of_all_keys_may_be_very_large() -> None:
    """Test keys with elements that are 144 times as large as the rest, as the biases of Qwen 2.5 make them."""
    plan = [(16, 16), (1, 300)]
    batch, whole = attention_batch(plan, 16)
    keys, values = random(316, 2, 64), random(316, 2, 64, seed=1)
    keys[..., 31], keys[..., 63] = keys[..., 31] + 144, keys[..., 63] - 70
    queries = random(17, 6, 64, seed=2)
    queries[..., 31], queries[..., 5:9] = 20, 20
    kv = INTEGER.allocate_kv(NUM_PAGES, 16, 2, 64)
    INTEGER.write_kv(kv, keys, values, whole)
    result = INTEGER.attention(queries, kv, batch, 64**-0.5)
    assert near(result, attend_key_by_key(queries.double(), keys.double(), values.double(), plan, None, None), 5e-3)


def attend_key_by_key(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    plan: list[tuple[int, int]],
    window: int | None,
    logit_cap: float | None,
) -> torch.Tensor:
    """Compute each query with only the keys that it sees, without pages or masks."""
    group_size = queries.shape[1] // keys.shape[1]
    outs: list[torch.Tensor] = []
    start = 0
    for num_queries, context in plan:
        for position in range(context - num_queries, context):
            first = 0 if window is None else max(0, position + 1 - window)
            seen = slice(start + first, start + position + 1)
            k_LNH, v_LNH = (x[seen].repeat_interleave(group_size, dim=1) for x in (keys, values))
            scores_NL = torch.einsum("nh,lnh->nl", queries[len(outs)], k_LNH) * queries.shape[2] ** -0.5
            if logit_cap is not None:
                scores_NL = logit_cap * torch.tanh(scores_NL / logit_cap)
            outs.append(torch.einsum("nl,lnh->nh", scores_NL.softmax(-1), v_LNH))
        start += context
    return torch.stack(outs)


def poison(kv: object) -> None:
    """Fill KV memory with values that must not matter, as another sequence might leave them, including NaN in scales."""
    if isinstance(kv, IntegerKV):
        kv.integers.fill_(torch.iinfo(kv.integers.dtype).min)
        kv.scales.fill_(math.nan)


def test_faint_keys_count_beside_one_that_takes_nearly_all() -> None:
    """Test one key with a thousand times the weight of all others together, each of which has a millionth of its weight."""
    batch, whole = attention_batch([(1, 1000)], 16)
    keys, values = torch.zeros(1000, 1, 16), torch.ones(1000, 1, 16)
    keys[0], values[0] = math.log(1e6) / 4, 0.0
    queries = torch.ones(1, 1, 16)
    kv = INTEGER.allocate_kv(NUM_PAGES, 16, 1, 16)
    INTEGER.write_kv(kv, keys, values, whole)
    result = INTEGER.attention(queries, kv, batch, 0.25)
    assert near(result, torch.full((1, 1, 16), 999 / (1e6 + 999)), 0.1)


def test_kv_bytes_are_what_is_allocated() -> None:
    for kernels in (INTEGER, IntegerKernels(kv_format=KV_FORMATS["int8"]), REFERENCE):
        kv = kernels.allocate_kv(5, 16, 3, 64)
        tensors = (kv.integers, kv.scales) if isinstance(kv, IntegerKV) else (kv,)
        num_bytes = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))
        assert num_bytes == 5 * kernels.kv_bytes_per_page(16, 3, 64)


def test_unknown_numerics_name_the_known_ones() -> None:
    assert select_kernels("integer", "cpu").is_batch_invariant
    with pytest.raises(UnknownKernelsError, match=r"'int3'.*integer on cpu, float32 on cpu"):
        select_kernels("int3", "cpu")


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("renormalizes", [False, True])
def test_route(rows: int, renormalizes: bool) -> None:
    x_TD, weight_ED, gate = random(rows, 300), random(60, 300, seed=1), random(1, 300, seed=2)
    integer, reference = (
        kernels.route(x_TD, kernels.pack_router(weight_ED, 4, renormalizes=renormalizes, shared_gate=gate))
        for kernels in (INTEGER, REFERENCE)
    )
    assert torch.equal(integer > 0, reference > 0)
    assert near(integer, reference, 1e-4)


def test_route_prefers_the_first_of_equal_experts() -> None:
    weight_ED = random(1, 50).expand(9, -1).clone()
    weight_ED[6] *= 2
    x_TD = weight_ED[:1].clone()
    for kernels in (INTEGER, REFERENCE):
        routing_TE = kernels.route(x_TD, kernels.pack_router(weight_ED, 3, renormalizes=True))
        assert routing_TE.nonzero()[:, 1].tolist() == [0, 1, 6]


def test_scores_are_exact() -> None:
    """Check that sums do not depend on the order of the inputs, even if they nearly cancel."""
    x_TD, weight_ED = random(50, 4096), random(16, 4096, seed=1)
    weight_ED[:, 1::2] = -weight_ED[:, ::2]
    x_TD[:, 1::2] = x_TD[:, ::2] * (1 + 1e-6 * random(50, 2048, seed=2))
    order = torch.randperm(4096, generator=torch.Generator().manual_seed(3))
    routings = [
        INTEGER.route(x_TD[:, some], INTEGER.pack_router(weight_ED[:, some], 2, renormalizes=True))
        for some in (slice(None), order)
    ]
    assert torch.equal(*routings)


@pytest.mark.parametrize("rows", ROWS)
def test_experts(rows: int) -> None:
    gates, ups = random(2, 6, 40, 96, seed=1)
    downs, x_TD, shared_TD = random(6, 96, 40, seed=2), random(rows, 96), random(rows, 96, seed=4)
    results = []
    for kernels in (INTEGER, REFERENCE):
        router = kernels.pack_router(random(6, 96), 2, renormalizes=True, shared_gate=random(1, 96, seed=3))
        experts = kernels.pack_experts(gates, ups, downs, 2)
        results.append(kernels.experts(x_TD, kernels.route(x_TD, router), experts, shared_TD))
    integer, reference = results
    assert near(integer, reference, 3e-2)
