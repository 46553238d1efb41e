"""Tests of packing weights from a file's own bytes, and of embeddings gathered from what was packed."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.kernels.native import native_kernels, same_bits, threads
from tests.kernels.test_integer_kernels import random
from tests.kernels.test_native_grouped import random_stored
from worker.kernels.integer import FloatEmbedding, IntegerKernels
from worker.kernels.native import panels
from worker.weights.dequantize import GROUPED
from worker.weights.grouped import GroupedWeight
from worker.weights.linear_format import StoredWeight, stored

NATIVE, REFERENCE = native_kernels(), IntegerKernels()
IDS_T = torch.tensor([44, 0, 31, 32, 44])
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


@pytest.mark.parametrize("kernels", [NATIVE, REFERENCE])
@pytest.mark.parametrize("name", [kind.name for kind in GROUPED])
def test_an_embedding_in_groups_is_gathered_from_the_output_that_it_is(name: str, kernels: IntegerKernels) -> None:
    weight = random_stored(next(kind for kind in GROUPED if kind.name == name), 45, 512)
    embedding = kernels.pack_embedding(weight)
    assert same_bits(kernels.embed(embedding, IDS_T), weight.dequantize()[IDS_T])
    assert kernels.tied_output(embedding) is embedding
    x_TI = random(3, 512)
    assert same_bits(
        kernels.linear(x_TI, kernels.tied_output(embedding)), kernels.linear(x_TI, kernels.pack_linear(weight))
    )


@pytest.mark.parametrize("kernels", [NATIVE, REFERENCE])
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_embedding_in_floats_keeps_their_type(dtype: torch.dtype, kernels: IntegerKernels) -> None:
    table_VD = (random(45, 77) * torch.logspace(-8, 4, 45)[:, None]).to(dtype)
    table_VD[31, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    embedding = kernels.pack_embedding(table_VD)
    assert isinstance(embedding, FloatEmbedding)
    assert embedding.num_bytes == table_VD.nbytes
    assert same_bits(kernels.embed(embedding, IDS_T), table_VD[IDS_T].float())
    x_TI = random(3, 77)
    assert same_bits(
        kernels.linear(x_TI, kernels.tied_output(embedding)), kernels.linear(x_TI, kernels.pack_linear(table_VD))
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_are_packed_in_their_order_on_any_number_of_threads(
    dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "usable_cores", lambda: count)
    floats_OI, order_O = random(100, 200).to(dtype), torch.randperm(100)
    weight = replace(stored(floats_OI), row_order_O=order_O)
    x_TI = random(2, 200)
    expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(floats_OI[order_O].float()))
    assert same_bits(NATIVE.linear(x_TI, NATIVE.pack_linear(weight)), expected)


class Halved:
    """A format without a native form, which can be unpacked only."""

    name = "halved"

    def unpack(self, weight: StoredWeight, first: int, end: int) -> torch.Tensor | GroupedWeight:
        unpacked = weight.parts["unpacked"][weight.file_rows(first, end)].double() / 2
        if "scale" not in weight.parts:
            return unpacked
        scale_OG = weight.parts["scale"][weight.file_rows(first, end)]
        return GroupedWeight(integers_OI=unpacked.to(torch.int8), scale_OG=scale_OG, minimum_OG=None)


@pytest.mark.parametrize("largest", [30, 200])
def test_a_format_without_a_native_form_is_unpacked_some_rows_at_a_time(
    largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "VALUES_PER_PASS", 40 * 64)
    floats_OI, integers_OI = random(100, 64), torch.randint(0, largest, (100, 64)) // 2 * 2
    integers_OI[99, 63] = largest
    x_TI, order_O = random(2, 64), torch.randperm(100)
    for parts in ({"unpacked": floats_OI}, {"unpacked": integers_OI, "scale": random(100, 2)}):
        weight = StoredWeight(format=Halved(), shape=(100, 64), parts=parts, row_order_O=order_O)
        expected = REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight))
        assert same_bits(NATIVE.linear(x_TI, NATIVE.pack_linear(weight)), expected)
    embedding = NATIVE.pack_embedding(StoredWeight(format=Halved(), shape=(100, 64), parts={"unpacked": floats_OI}))
    assert same_bits(NATIVE.embed(embedding, IDS_T), (floats_OI[IDS_T] / 2))


@pytest.mark.parametrize("name", ["Q4_K", "Q5_0", "floats"])
def test_a_large_matrix_is_packed_in_passes_whose_rows_are_forgotten(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "BYTES_PER_PASS", 10_000)
    kind = next((kind for kind in GROUPED if kind.name == name), None)
    weight = stored(random(200, 512)) if kind is None else random_stored(kind, 200, 512)
    forgotten: list[tuple[int, int]] = []
    passed = replace(weight, forget=lambda first, end: forgotten.append((first, end)))
    x_TI = random(2, 512)
    assert same_bits(
        NATIVE.linear(x_TI, NATIVE.pack_linear(passed)), REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight))
    )
    assert len(forgotten) > 2
    assert [row for first, end in forgotten for row in range(first, end)] == list(range(200))
