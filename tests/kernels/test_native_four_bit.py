"""Tests that the native linear with four-bit weights gives the bits of its reference implementation in torch."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch

from tests.kernels.native import native_kernels, same_bits, threads
from tests.kernels.test_integer_kernels import random
from tests.kernels.test_native_kernels import hard_rows
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Forward, LayerKV
from worker.kernels.step_batch import StepBatch
from worker.weights.four_bit import BLOCK, FourBitWeight

NATIVE, REFERENCE = native_kernels(), IntegerKernels()
FACTORS = [torch.float32, torch.half]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


def random_weight(num_out: int, num_in: int, factors: torch.dtype = torch.float32) -> FourBitWeight:
    """Return weights whose scales and minima have very different magnitudes, both signs, and values that `factors` holds."""
    integers_OI = torch.randint(16, (num_out, num_in), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    magnitude_O1 = torch.logspace(*((-8, 4) if factors is torch.half else (-8, 8)), num_out)[:, None]
    scale_OG, minimum_OG = random(num_out, num_in // BLOCK, seed=3), random(num_out, num_in // BLOCK, seed=4)
    return FourBitWeight(
        integers_OI=integers_OI,
        scale_OG=(scale_OG * magnitude_O1).to(factors).float(),
        minimum_OG=(minimum_OG * magnitude_O1.flip(0)).to(factors).float(),
    )


def same_as_reference(x_TI: torch.Tensor, weight: FourBitWeight, bias_O: torch.Tensor | None = None) -> bool:
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight, bias_O))
    return same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight, bias_O)))


@pytest.mark.parametrize("rows", [*range(1, 10), 33, 130])
@pytest.mark.parametrize("inner", [32, 96, 576, 1536])
@pytest.mark.parametrize("outer", [5, 16, 77])
@pytest.mark.parametrize("factors", FACTORS)
def test_linear(rows: int, inner: int, outer: int, factors: torch.dtype) -> None:
    x_TI, weight = hard_rows(rows, inner), random_weight(outer, inner, factors)
    assert same_as_reference(x_TI, weight)
    assert same_as_reference(x_TI, weight, random(outer))


def test_more_panels_than_a_tile() -> None:
    assert same_as_reference(hard_rows(200, 2048), random_weight(430, 2048))


def test_factors_in_16_bits_where_that_is_exact() -> None:
    half, full = NATIVE.pack_linear(random_weight(32, 96, torch.half)), NATIVE.pack_linear(random_weight(32, 96))
    assert half.num_bytes == 32 * 3 * (16 + 2 * 2)
    assert full.num_bytes == 32 * 3 * (16 + 2 * 4)


@pytest.mark.parametrize("value", [65504.0, 65536.0, 2.0**-24, 2.0**-25, 0.1, math.inf])
def test_what_fits_into_16_bits_and_what_does_not(value: float) -> None:
    """Test the largest number, one above it, the smallest, one below it, one with too many digits, and infinity."""
    weight = random_weight(48, 96, torch.half)
    for factor_OG in (weight.scale_OG, weight.minimum_OG):
        before, factor_OG[7, 1] = factor_OG[7, 1].clone(), value
        assert same_as_reference(hard_rows(5, 96), weight)
        factor_OG[7, 1] = before


@pytest.mark.parametrize("outer", [1, 40])
def test_the_largest_sums(outer: int) -> None:
    """Test integers of both sides at the ends of their ranges, so that sums in 16 bits reach their limit."""
    x_TI = torch.full((5, 3 * BLOCK), 127.0)
    x_TI[1], x_TI[2, ::2] = -x_TI[1], -x_TI[2, ::2]
    x_TI[3, BLOCK:], x_TI[4, BLOCK + 1 :] = 0.0, -x_TI[4, BLOCK + 1 :]
    groups_OG = torch.ones(outer, 3)
    weight = FourBitWeight(
        integers_OI=torch.full((outer, 3 * BLOCK), 15, dtype=torch.uint8), scale_OG=groups_OG, minimum_OG=0 * groups_OG
    )
    assert same_as_reference(x_TI, weight)
    assert NATIVE.linear(x_TI, NATIVE.pack_linear(weight))[:2, 0].tolist() == [
        3 * BLOCK * 15 * 127,
        -3 * BLOCK * 15 * 127,
    ]


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 1e-38, 1e-20, 1e30])
def test_scales_at_the_ends_of_their_range(value: float) -> None:
    weight = random_weight(21, 4 * BLOCK)
    weight.scale_OG[::2], weight.minimum_OG[::3] = value, -value
    x_TI = hard_rows(7, 4 * BLOCK)
    x_TI[5:, BLOCK : 2 * BLOCK] = 0.0
    assert same_as_reference(x_TI, weight)
    assert same_as_reference(torch.zeros(3, 4 * BLOCK), weight)


def test_every_integer_has_its_place() -> None:
    """Check the place of each integer: with one output per integer and one row per input, the product is the matrix."""
    integers_OI = torch.arange(48 * BLOCK).remainder(16).to(torch.uint8).view(48, BLOCK)
    integers_OI = integers_OI.roll(1, 0) ^ integers_OI.flip(1)
    weight = FourBitWeight(
        integers_OI=integers_OI, scale_OG=torch.full((48, 1), 1 / 127), minimum_OG=torch.zeros(48, 1)
    )
    result_IO = NATIVE.linear(torch.eye(BLOCK) * 127, NATIVE.pack_linear(weight))
    assert torch.equal(result_IO.T.round(), integers_OI.float())


def test_a_row_is_the_same_alone_and_in_company() -> None:
    x_TI, packed = hard_rows(33, 576), NATIVE.pack_linear(random_weight(50, 576))
    whole = NATIVE.linear(x_TI, packed)
    for first, end in ((0, 1), (5, 8), (11, 24), (32, 33)):
        assert torch.equal(NATIVE.linear(x_TI[first:end], packed), whole[first:end])


def test_non_finite_rows_stay_by_themselves() -> None:
    x_TI, weight = random(4, 64), random_weight(8, 64)
    x_TI[1, 3], x_TI[2, 5] = math.nan, math.inf
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight))
    assert same_bits(result[[0, 3]], REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight))[[0, 3]])
    assert not result[1:3].isfinite().any()


def test_nothing_to_compute() -> None:
    assert NATIVE.linear(torch.empty(0, 64), NATIVE.pack_linear(random_weight(24, 64))).shape == (0, 24)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_number_of_threads(count: int) -> None:
    """Test a size that is large enough to be divided among threads."""
    x_TI, weight = random(70, 576), random_weight(960, 576)
    expected, packed = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight)), NATIVE.pack_linear(weight)
    with threads(count):
        for _ in range(20):
            assert same_bits(NATIVE.linear(x_TI, packed), expected)


def test_recorded_and_replayed() -> None:
    """Replay two linears, one for each kind of panels, where the second reads the result of the first."""
    table_VD, weights = random(20, 64), (random_weight(96, 64, torch.half), random_weight(40, 96))

    def forward_of(kernels: IntegerKernels) -> Forward:
        first, second = (kernels.pack_linear(weight) for weight in weights)

        def forward(batch: StepBatch, _: Sequence[LayerKV]) -> torch.Tensor:
            x_TD = kernels.gather_rows(table_VD, batch.token_ids_T)
            return kernels.gather_rows(kernels.linear(kernels.linear(x_TD, first), second), batch.sample_rows_R)

        return forward

    replay, expected, kv = NATIVE.prepare(forward_of(NATIVE)), forward_of(REFERENCE), list[LayerKV]()
    for num_tokens in (1, 90, 3, 17):
        batch = batch_of(torch.arange(num_tokens) * 7 % 20)
        assert same_bits(replay(batch, kv), expected(batch, kv))


def batch_of(token_ids_T: torch.Tensor) -> StepBatch:
    positions_T = torch.arange(len(token_ids_T))
    return StepBatch(
        token_ids_T=token_ids_T,
        positions_T=positions_T,
        slots_T=positions_T,
        query_starts=(0, len(positions_T)),
        context_lens=(len(positions_T),),
        block_tables_SB=torch.zeros(1, 1, dtype=torch.int64),
        sample_rows_R=positions_T[-2:],
    )
