"""Tests that the native linear of integers in groups gives the bits of its reference implementation in torch."""

import math
from collections.abc import Iterator, Sequence

import pytest
import torch

from pagoda.models.formats.ggml_type import GGMLType
from tests.kernels.native import native_kernels, native_library, same_bits, threads
from tests.kernels.test_integer_kernels import random
from tests.kernels.test_native_kernels import hard_rows
from worker.kernels.hadamard_int8 import IntegerLinear
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Forward, LayerKV
from worker.kernels.native.panels import Panels
from worker.kernels.step_batch import StepBatch
from worker.weights.dequantize import GROUPED, stored_blocks
from worker.weights.grouped import BLOCK, GroupedWeight
from worker.weights.linear_format import StoredWeight, Weight

LIBRARY, NATIVE, REFERENCE = native_library(), native_kernels(), IntegerKernels()
HALVES = {
    **dict.fromkeys((GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0, GGMLType.IQ4_NL, GGMLType.IQ4_XS), (0,)),
    **dict.fromkeys((GGMLType.Q4_1, GGMLType.Q5_1, GGMLType.Q4_K, GGMLType.Q5_K), (0, 2)),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q6_K: (208,),
}
"""Positions of the numbers of 16 bits in a block."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


def random_stored(ggml_type: GGMLType, num_out: int, num_in: int, order: bool = False) -> StoredWeight:
    """Return random blocks whose factors have very different magnitudes and both signs, and all of whose values are finite."""
    num_blocks = num_in // ggml_type.block_size
    generator = torch.Generator().manual_seed(2)
    blocks_OGX = torch.randint(
        256, (num_out, num_blocks, ggml_type.block_bytes), generator=generator, dtype=torch.uint8
    )
    for place in HALVES[ggml_type]:
        factors_OG = random(num_out, num_blocks, seed=place) * torch.logspace(-6, 3, num_out)[:, None]
        blocks_OGX[:, :, place : place + 2] = factors_OG.half()[..., None].view(torch.uint8)
    order_O = torch.randperm(num_out, generator=generator) if order else None
    return stored_blocks(blocks_OGX.numpy().data.cast("B"), ggml_type, (num_out, num_in), order_O)


def uneven_rows(rows: int, size: int) -> torch.Tensor:
    """Return rows with up to three outstanding blocks, some of them the same in several rows, and none in every fourth row."""
    x_TI = hard_rows(rows, size)
    for row, x_GB in enumerate(x_TI.view(rows, -1, BLOCK)):
        for number in range(row % 4):
            x_GB[(number * row + 1) % len(x_GB)] *= 50 + number
    return x_TI


def random_unpacked(num_out: int, num_in: int, lowest: int = 0, most: int = 15) -> GroupedWeight:
    """Return weights whose scales and minima have very different magnitudes and both signs."""
    generator = torch.Generator().manual_seed(2)
    magnitude_O1 = torch.logspace(-8, 8, num_out)[:, None]
    return GroupedWeight(
        integers_OI=torch.randint(lowest, most + 1, (num_out, num_in), generator=generator, dtype=torch.int8),
        scale_OG=random(num_out, num_in // BLOCK, seed=3) * magnitude_O1,
        minimum_OG=random(num_out, num_in // BLOCK, seed=4) * magnitude_O1.flip(0),
    )


def same_as_reference(
    x_TI: torch.Tensor, weight: Weight | Sequence[Weight], bias_O: torch.Tensor | None = None
) -> bool:
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight, bias_O))
    return same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight, bias_O)))


@pytest.mark.parametrize("ggml_type", GROUPED)
@pytest.mark.parametrize("rows", [*range(1, 10), 33])
def test_linear(ggml_type: GGMLType, rows: int) -> None:
    for outer, inner in ((5, 256), (77, 768)):
        x_TI, weight = hard_rows(rows, inner), random_stored(ggml_type, outer, inner)
        assert same_as_reference(x_TI, weight)
        assert same_as_reference(x_TI, weight, random(outer))


@pytest.mark.parametrize("ggml_type", GROUPED)
@pytest.mark.parametrize("rows", [2, 3, 4, 8, 33])
def test_outstanding_blocks(ggml_type: GGMLType, rows: int) -> None:
    assert same_as_reference(uneven_rows(rows, 768), random_stored(ggml_type, 77, 768))


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 24, 97])
def test_any_number_of_outstanding_blocks(blocks: int) -> None:
    """Test rows with 0, 1, ... blocks that are not zero; most are outstanding if they are a third."""
    x_TI = random(blocks + 1, blocks * BLOCK)
    for row, x_I in enumerate(x_TI):
        x_I[row * BLOCK :] = 0.0
        x_I[::BLOCK] = x_I[::BLOCK].sign() * 4
    assert same_as_reference(x_TI, random_unpacked(40, blocks * BLOCK))


def test_an_outstanding_block_loses_as_little_as_the_others() -> None:
    x_TI, weight = random(4, 512), random_stored(GGMLType.Q4_K, 40, 512)
    x_TI[1:, 64:96] *= 100
    exact_TO = x_TI.double() @ weight.dequantize().double().T
    error_T = (NATIVE.linear(x_TI, NATIVE.pack_linear(weight)) - exact_TO).norm(dim=1)
    assert float(error_T[1:].max()) < 1.5 * float(error_T[0])


@pytest.mark.parametrize("ggml_type", GROUPED)
@pytest.mark.parametrize("inner", [32, 96, 544])
def test_sizes_that_are_not_multiples_of_256(ggml_type: GGMLType, inner: int) -> None:
    if ggml_type.block_size == BLOCK:
        assert same_as_reference(hard_rows(3, inner), random_stored(ggml_type, 35, inner))


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize(("lowest", "most"), [(0, 15), (-128, 127)])
def test_unpacked_integers(rows: int, lowest: int, most: int) -> None:
    x_TI, weight = hard_rows(rows, 96), random_unpacked(77, 96, lowest, most)
    symmetric = GroupedWeight(integers_OI=weight.integers_OI, scale_OG=weight.scale_OG, minimum_OG=None)
    assert same_as_reference(x_TI, weight) and same_as_reference(x_TI, symmetric)


def test_more_panels_than_a_tile() -> None:
    assert same_as_reference(hard_rows(200, 2048), random_stored(GGMLType.Q4_K, 430, 2048))


@pytest.mark.parametrize("ggml_type", GROUPED)
def test_rows_in_an_order_of_our_own(ggml_type: GGMLType) -> None:
    assert same_as_reference(hard_rows(3, 512), random_stored(ggml_type, 70, 512, order=True))


def test_matrices_of_several_formats_in_one_linear() -> None:
    x_TI = hard_rows(7, 256)
    several: list[Weight] = [
        random_stored(GGMLType.Q4_K, 40, 256),
        random(37, 256),
        random_stored(GGMLType.Q6_K, 33, 256),
    ]
    assert same_as_reference(x_TI, several, random(110))


@pytest.mark.parametrize("ggml_type", GROUPED)
def test_weights_keep_the_size_that_they_have_in_the_file(ggml_type: GGMLType) -> None:
    weight = random_stored(ggml_type, 64, 512)
    one_scale_in_a_byte = {GGMLType.IQ4_XS: 1 + 2 / 136}
    assert NATIVE.pack_linear(weight).num_bytes == weight.nbytes * one_scale_in_a_byte.get(ggml_type, 1)


@pytest.mark.parametrize("ggml_type", GROUPED)
@pytest.mark.parametrize("finite", [True, False])
def test_rows_that_are_unpacked_have_the_bits_of_the_file(ggml_type: GGMLType, finite: bool) -> None:
    weight = random_stored(ggml_type, 45, 512)
    if not finite:
        torch.randint(0, 256, weight.parts["blocks"].shape, dtype=torch.uint8, out=weight.parts["blocks"])
    packed, expected_OI = NATIVE.pack_linear(weight), weight.dequantize()
    assert isinstance(packed, IntegerLinear)
    (panels,) = packed.packed
    assert isinstance(panels, Panels)
    row_I, segment = torch.empty(512), panels.segments[0]
    for o in (0, 15, 16, 44):
        LIBRARY.unpack_grouped_row(segment.format, segment.panels, o, 512, row_I.data_ptr())
        assert same_bits(row_I, expected_OI[o])


@pytest.mark.parametrize(("ggml_type", "byte"), [(each, byte) for each in GROUPED for byte in (0x00, 0x7F, 0x80, 0xFF)])
def test_the_largest_sums(ggml_type: GGMLType, byte: int) -> None:
    """Test integers of both sides at the ends of their ranges, so that sums in 16 bits reach their limit."""
    x_TI = torch.full((5, 2 * 256), 127.0)
    x_TI[1], x_TI[2, ::2] = -x_TI[1], -x_TI[2, ::2]
    x_TI[3, BLOCK:], x_TI[4, BLOCK + 1 :] = 0.0, -x_TI[4, BLOCK + 1 :]
    weight = random_stored(ggml_type, 40, 2 * 256)
    blocks_OGX = weight.parts["blocks"].view(40, -1, ggml_type.block_bytes)
    factors = {place: blocks_OGX[:, :, place : place + 2].clone() for place in HALVES[ggml_type]}
    blocks_OGX[:] = byte
    for place, factor in factors.items():
        blocks_OGX[:, :, place : place + 2] = factor
    assert same_as_reference(x_TI, weight)


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, 1e-38, 1e-20, 1e30, math.inf, math.nan])
def test_scales_at_the_ends_of_their_range(value: float) -> None:
    weight = random_unpacked(21, 4 * BLOCK)
    assert weight.minimum_OG is not None
    weight.scale_OG[::2], weight.minimum_OG[::3] = value, -value
    x_TI = hard_rows(7, 4 * BLOCK)
    x_TI[5:, BLOCK : 2 * BLOCK] = 0.0
    assert same_as_reference(x_TI, weight)
    assert same_as_reference(torch.zeros(3, 4 * BLOCK), weight)


@pytest.mark.parametrize("ggml_type", GROUPED)
def test_blocks_of_any_bytes(ggml_type: GGMLType) -> None:
    weight = random_stored(ggml_type, 50, 256)
    torch.randint(0, 256, weight.parts["blocks"].shape, dtype=torch.uint8, out=weight.parts["blocks"])
    assert same_as_reference(hard_rows(7, 256), weight)


@pytest.mark.parametrize("ggml_type", GROUPED)
def test_every_integer_has_its_place(ggml_type: GGMLType) -> None:
    """Check the place of each integer: with one row per input, the product is the matrix."""
    weight = random_stored(ggml_type, 48, 256)
    expected_OI, result_IO = weight.dequantize(), NATIVE.linear(torch.eye(256) * 127, NATIVE.pack_linear(weight))
    largest_O1 = expected_OI.abs().amax(dim=1, keepdim=True)
    assert float(((result_IO.T / 127 - expected_OI).abs() / largest_O1).max()) < 1e-5


def test_a_row_is_the_same_alone_and_in_company() -> None:
    x_TI, packed = uneven_rows(33, 512), NATIVE.pack_linear(random_stored(GGMLType.Q6_K, 50, 512))
    whole = NATIVE.linear(x_TI, packed)
    for first, end in ((0, 1), (5, 8), (11, 24), (32, 33)):
        assert torch.equal(NATIVE.linear(x_TI[first:end], packed), whole[first:end])


@pytest.mark.parametrize("ggml_type", GROUPED)
def test_non_finite_rows_stay_by_themselves(ggml_type: GGMLType) -> None:
    x_TI, weight = random(4, 256), random_stored(ggml_type, 8, 256)
    x_TI[1, 3], x_TI[2, 5] = math.nan, math.inf
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight))
    assert same_bits(result[[0, 3]], REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight))[[0, 3]])
    assert not result[1:3].isfinite().any()


def test_nothing_to_compute() -> None:
    assert NATIVE.linear(torch.empty(0, 64), NATIVE.pack_linear(random_unpacked(24, 64))).shape == (0, 24)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_number_of_threads(count: int) -> None:
    """Test a size that is large enough to be divided among threads."""
    x_TI, weight = random(70, 512), random_stored(GGMLType.Q5_0, 960, 512)
    expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight))
    with threads(count):
        packed = NATIVE.pack_linear(weight)
        for _ in range(20):
            assert same_bits(NATIVE.linear(x_TI, packed), expected)


def test_recorded_and_replayed() -> None:
    """Replay two linears, the second of several formats, where it reads the result of the first."""
    table_VD = random(20, 64)
    weights: list[list[Weight]] = [[random_unpacked(256, 64)], [random_stored(GGMLType.Q3_K, 40, 256), random(7, 256)]]

    def forward_of(kernels: IntegerKernels) -> Forward:
        first, second = (kernels.pack_linear(several) for several in weights)

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
