"""Tests that native attention gives the bits of its reference implementation in torch, for each KV format."""

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.attention_batch import NUM_PAGES, attention_batch
from tests.kernels.native import native_kernels, same_bits, threads
from tests.kernels.test_integer_kernels import PLANS, poison, random
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import DEFAULT_KV_DTYPE, KV_FORMATS, SUM_LENGTH, IntegerKV
from worker.kernels.native.self_check import find_difference

KERNELS = {name: (native_kernels(name), IntegerKernels(kv_format=kept)) for name, kept in KV_FORMATS.items()}
PLAN = [(5, 21), (1, 300), (16, 16), (2, 90)]
HEADS = [(6, 2, 8), (9, 3, 64), (8, 2, 80), (2, 1, 256)]
"""Cases of (query heads, KV heads, head size)."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch with one thread, because several would wait for each other longer than they compute."""
    with threads(1):
        yield


def check_attention(
    kv_dtype: str,
    plan: list[tuple[int, int]],
    heads: tuple[int, int, int],
    page_size: int,
    window: int | None,
    logit_cap: float | None,
) -> None:
    """Check that the written KV memory and the attention have the bits of the reference implementation."""
    num_heads, num_kv_heads, head_size = heads
    batch, whole = attention_batch(plan, page_size)
    num_keys = len(whole.slots_T)
    # The keys, values and queries are views of wider rows, as in a model, and of very different magnitude.
    kv_TNH = random(num_keys, 2 * num_kv_heads, head_size) * torch.logspace(-3, 1, num_keys)[:, None, None]
    queries = random(len(batch.slots_T), num_heads + 2, head_size, seed=2)[:, 1:-1] * 3
    results = []
    for kernels in KERNELS[kv_dtype]:
        kv = kernels.allocate_kv(NUM_PAGES, page_size, num_kv_heads, head_size)
        assert isinstance(kv, IntegerKV)
        poison(kv)
        kernels.write_kv(kv, kv_TNH[:, :num_kv_heads], kv_TNH[:, num_kv_heads:], whole)
        results.append((kv, kernels.attention(queries, kv, batch, head_size**-0.5, window, logit_cap)))
    (native_kv, native), (reference_kv, reference) = results
    assert torch.equal(native_kv.integers, reference_kv.integers)
    assert same_bits(native_kv.scales, reference_kv.scales)
    assert same_bits(native, reference)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize(("page_size", "window", "logit_cap"), [(16, None, None), (7, 33, 2.0), (48, 100, None)])
@pytest.mark.parametrize("kv_dtype", KV_FORMATS)
def test_attention(
    kv_dtype: str, heads: tuple[int, int, int], page_size: int, window: int | None, logit_cap: float | None
) -> None:
    check_attention(kv_dtype, PLAN, heads, page_size, window, logit_cap)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("heads", [*HEADS, (4, 4, 32), (5, 1, 128)], ids=str)
@pytest.mark.parametrize(
    ("page_size", "window", "logit_cap"), [(16, None, None), (7, 1, None), (16, 33, 2.0), (7, None, 2.0)]
)
def test_attention_of_steps_of_all_kinds(
    plan: list[tuple[int, int]],
    heads: tuple[int, int, int],
    page_size: int,
    window: int | None,
    logit_cap: float | None,
) -> None:
    check_attention(DEFAULT_KV_DTYPE, plan, heads, page_size, window, logit_cap)


@pytest.mark.parametrize("kv_dtype", KV_FORMATS)
def test_the_largest_sums(kv_dtype: str) -> None:
    """Test keys, values and queries at the largest integer, with weights as large as their block's step allows."""
    kept = KV_FORMATS[kv_dtype]
    assert SUM_LENGTH * kept.levels * kept.factor_levels < 1 << 31
    batch, whole = attention_batch([(1, 1000), (3, 65)], 16)
    almost_two = torch.full((1065, 1, 256), 1.9999 * kept.levels)
    results = []
    for kernels in KERNELS[kv_dtype]:
        kv = kernels.allocate_kv(NUM_PAGES, 16, 1, 256)
        kernels.write_kv(kv, almost_two, almost_two, whole)
        results.append(kernels.attention(torch.ones(4, 2, 256), kv, batch, 1.0))
    assert same_bits(*results)
    assert (results[0] / almost_two[0, 0, 0] - 1).abs().max() < 1e-3


def test_equal_keys_and_values() -> None:
    batch, whole = attention_batch([(1, 1000), (3, 65)], 16)
    results = []
    for kernels in KERNELS[DEFAULT_KV_DTYPE]:
        kv = kernels.allocate_kv(NUM_PAGES, 16, 1, 256)
        kernels.write_kv(kv, torch.ones(1065, 1, 256), torch.ones(1065, 1, 256), whole)
        results.append(kernels.attention(torch.ones(4, 2, 256), kv, batch, 1.0))
    assert same_bits(*results)


@pytest.mark.parametrize("kv_dtype", KV_FORMATS)
def test_faint_keys_of_a_block_count_beside_one_that_takes_nearly_all(kv_dtype: str) -> None:
    """Test keys with 2^-15 of the last key's weight, in other blocks: they are rounded with their own block's step."""
    batch, whole = attention_batch([(1, 1025)], 16)
    keys, values = torch.zeros(1025, 1, 16), torch.ones(1025, 1, 16)
    keys[-1], values[-1, 0, 0::2] = 15 * 0.6931471805599453 / 4, -1.0
    for kernels in KERNELS[kv_dtype]:
        kv = kernels.allocate_kv(NUM_PAGES, 16, 1, 16)
        kernels.write_kv(kv, keys, values, whole)
        result = kernels.attention(torch.ones(1, 1, 16), kv, batch, 0.25)
        faint = 1024 / (1024 + 2**15)
        assert (result[0, 0, 0::2] - (2 * faint - 1)).abs().max() < 0.01 * faint


@pytest.mark.parametrize("kv_dtype", KV_FORMATS)
def test_the_check_at_the_start(kv_dtype: str) -> None:
    assert find_difference(*KERNELS[kv_dtype]) is None
