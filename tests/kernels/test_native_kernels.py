"""Tests that each native kernel gives the bits of its reference implementation in torch."""

import math
from collections.abc import Iterator

import pytest
import torch

from tests.kernels.attention_batch import NUM_PAGES, attention_batch
from tests.kernels.native import native_kernels, same_bits, threads
from tests.kernels.test_integer_kernels import grouped_weight, random
from worker.kernels.hadamard_int8 import BLOCK, rotate
from worker.kernels.integer import IntegerKernels

NATIVE, REFERENCE = native_kernels(), IntegerKernels()
ROWS = [1, 2, 3, 5, 40]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


def hard_rows(rows: int, size: int) -> torch.Tensor:
    """Return rows of very different magnitude; if there are enough, one is zero and some are so small that they count as zero."""
    x_TI = random(rows, size) * torch.logspace(-6, 6, rows)[:, None]
    if rows > 4:
        x_TI[1], x_TI[2], x_TI[3] = 0.0, x_TI[2] * 1e-30, -x_TI[3].abs()
    return x_TI


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("inner", [1, 63, 64, 65, 576, 5000])
@pytest.mark.parametrize("outer", [5, 16, 77])
def test_linear(rows: int, inner: int, outer: int) -> None:
    x_TI, weight_OI = hard_rows(rows, inner), random(outer, inner, seed=1)
    for bias_O in (None, random(outer)):
        result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight_OI, bias_O))
        assert same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI, bias_O)))


def test_linear_with_more_panels_than_a_tile() -> None:
    x_TI, weight_OI = hard_rows(90, 2000), random(430, 2000, seed=1)
    assert same_bits(
        NATIVE.linear(x_TI, NATIVE.pack_linear(weight_OI)), REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI))
    )


def test_the_largest_sums() -> None:
    """Test rows whose Hadamard-rotated integers are all at the ends of their range, so that sums reach the format's budget."""
    x_TI, weight_OI = rotate(torch.ones(3, 2, BLOCK)).flatten(1), rotate(torch.ones(17, 2, BLOCK)).flatten(1)
    x_TI[1], weight_OI[1::2] = -x_TI[1], -weight_OI[1::2]
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight_OI))
    assert same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI)))
    assert float(result.abs().max()) == pytest.approx(BLOCK * 2 * BLOCK, rel=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [1, 5, 576, 4099])
def test_rms_norm(rows: int, size: int) -> None:
    x_TD, weight_D = hard_rows(rows, size), random(size, seed=1)
    assert same_bits(NATIVE.rms_norm(x_TD, weight_D, 1e-5), REFERENCE.rms_norm(x_TD, weight_D, 1e-5))


def test_rms_norm_of_heads_within_something_wider() -> None:
    x_TNH, weight_NH = random(5, 9, 16)[:, 1:7], random(6, 16, seed=1)
    assert same_bits(NATIVE.rms_norm(x_TNH, weight_NH, 1e-6), REFERENCE.rms_norm(x_TNH, weight_NH, 1e-6))


def non_finite_row(size: int) -> torch.Tensor:
    """Return NaN, infinities and finite numbers in turn, as [1, size]."""
    x_TI = random(1, size)
    x_TI[0, ::4], x_TI[0, 1::4], x_TI[0, 2::4] = math.nan, math.inf, -math.inf
    return x_TI


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [1, 33, 2048])
def test_elementwise(rows: int, size: int) -> None:
    x_TI = torch.cat((hard_rows(rows, 2 * size), non_finite_row(2 * size)))
    x_TI[0, : min(size, 5)] = torch.tensor([-200.0, 200.0, 0.0, -88.0, 1e-40])[:size]
    assert same_bits(NATIVE.silu_mul(x_TI), REFERENCE.silu_mul(x_TI))
    assert same_bits(NATIVE.gelu_tanh_mul(x_TI), REFERENCE.gelu_tanh_mul(x_TI))
    assert same_bits(NATIVE.cap(x_TI, 30.0), REFERENCE.cap(x_TI, 30.0))
    assert same_bits(NATIVE.scale(x_TI, 48**0.5), REFERENCE.scale(x_TI, 48**0.5))
    assert same_bits(NATIVE.add(x_TI, x_TI.flip(0)), REFERENCE.add(x_TI, x_TI.flip(0)))


def test_embed() -> None:
    table_VD, ids_T = random(20, 48), torch.tensor([3, 0, 19, 3])
    result = NATIVE.embed(NATIVE.pack_embedding(table_VD), ids_T)
    assert same_bits(result, REFERENCE.embed(REFERENCE.pack_embedding(table_VD), ids_T))


def test_gather_rows() -> None:
    x_TD, rows_R = torch.cat((hard_rows(5, 33), non_finite_row(33))), torch.tensor([5, 0, 5, 3])
    assert same_bits(NATIVE.gather_rows(x_TD, rows_R), x_TD[rows_R])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("rotated_size", [16, 6])
def test_rope(rows: int, rotated_size: int) -> None:
    x_TNH, cos_TH, sin_TH = random(rows, 5, 16)[:, :4], random(rows, rotated_size), random(rows, rotated_size, seed=1)
    assert same_bits(NATIVE.rope(x_TNH, cos_TH, sin_TH), REFERENCE.rope(x_TNH, cos_TH, sin_TH))


def test_nothing_to_compute() -> None:
    nothing_TI = torch.empty(0, 8)
    assert NATIVE.linear(nothing_TI, NATIVE.pack_linear(random(24, 8))).shape == (0, 24)
    assert NATIVE.rms_norm(nothing_TI, random(8), 1e-5).shape == (0, 8)
    assert NATIVE.silu_mul(nothing_TI).shape == (0, 4)
    assert NATIVE.add(nothing_TI, nothing_TI).shape == (0, 8)


def test_non_finite_rows_stay_by_themselves() -> None:
    x_TI, weight_OI = random(4, 32), random(8, 32)
    x_TI[1, 3], x_TI[2, 5] = math.nan, math.inf
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight_OI))
    expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI))
    assert same_bits(result[[0, 3]], expected[[0, 3]])
    assert not result[1:3].isfinite().any()
    normed = NATIVE.rms_norm(x_TI, weight_OI[0], 1e-5)
    assert same_bits(normed, REFERENCE.rms_norm(x_TI, weight_OI[0], 1e-5))


def test_a_sequence_with_nan_stays_by_itself() -> None:
    batch, whole = attention_batch([(2, 20), (2, 30)], 16)
    kv_TNH, queries = random(50, 4, 16), random(4, 4, 16, seed=1)
    kv_TNH[3, 0, 2], kv_TNH[40, 3, 1], queries[2, 1, 1] = math.nan, math.nan, math.nan
    results = []
    for kernels in (NATIVE, REFERENCE):
        kv = kernels.allocate_kv(NUM_PAGES, 16, 2, 16)
        kernels.write_kv(kv, kv_TNH[:, :2], kv_TNH[:, 2:], whole)
        results.append(kernels.attention(queries, kv, batch, 0.25))
    assert same_bits(*results)
    assert results[0][:2, 2:].isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_number_of_threads(count: int) -> None:
    """Test a size that is large enough to be divided among threads."""
    x_TI, weight_OI = random(70, 576), random(960, 576, seed=1)
    expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight_OI)), REFERENCE.silu_mul(weight_OI)
    weight = NATIVE.pack_linear(weight_OI)
    with threads(count):
        for _ in range(20):
            assert same_bits(NATIVE.linear(x_TI, weight), expected[0])
            assert same_bits(NATIVE.silu_mul(weight_OI), expected[1])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [1, 33, 2048])
@pytest.mark.parametrize("renormalizes", [False, True])
def test_route(rows: int, size: int, renormalizes: bool) -> None:
    x_TD, weight_ED, shared_gate = hard_rows(rows, size), random(37, size, seed=1), random(1, size, seed=2)
    weight_ED[5] = weight_ED[30]
    routings = [
        kernels.route(x_TD, kernels.pack_router(weight_ED, 4, renormalizes=renormalizes, shared_gate=shared_gate))
        for kernels in (NATIVE, REFERENCE)
    ]
    assert same_bits(*routings)
    assert ((routings[0][:, :37] > 0).sum(dim=1) == 4).all()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("has_shared", [False, True])
def test_experts(rows: int, has_shared: bool) -> None:
    """Test experts of which most have tokens, or a few, in two formats, with more rows than are multiplied at once."""
    num_experts, hidden, inner = 11, 96, 77
    gates, ups = random(2, num_experts, inner, hidden, seed=1)
    downs, x_TD = random(num_experts, hidden, inner, seed=2), hard_rows(rows, hidden)
    fours = [grouped_weight(inner, hidden, 32, minima=True) for _ in gates]
    shared_TD, shared_gate = (random(rows, hidden), random(1, hidden)) if has_shared else (None, None)
    for num_used, their_ups in ((1, ups), (4, fours), (num_experts, ups)):
        results = []
        for kernels in (NATIVE, REFERENCE):
            router = kernels.pack_router(
                random(num_experts, hidden), num_used, renormalizes=True, shared_gate=shared_gate
            )
            experts = kernels.pack_experts(gates, their_ups, downs, num_used)
            results.append(kernels.experts(x_TD, kernels.route(x_TD, router), experts, shared_TD))
        assert same_bits(*results)
        assert results[0].abs().sum(dim=1).gt(0).all() or rows > 4
