"""Attention over more keys than one exact sum can hold: the same bits from torch and C, and in any chunk."""

import pytest
import torch

from tests.kernels.attention_batch import NUM_PAGES, attention_batch
from tests.kernels.native import native_kernels, same_bits
from tests.kernels.test_integer_kernels import attend_key_by_key, near, random
from worker.kernels.integer import IntegerKernels
from worker.kernels.integer_attention import EXACT_KEYS

NATIVE, REFERENCE = native_kernels(), IntegerKernels()
PAGE_SIZE, HEAD_SIZE = 4096, 16
CONTEXT = 2 * EXACT_KEYS + 1000
LONGER_WINDOW = EXACT_KEYS + 700


def attend(kernels: IntegerKernels, plan: list[tuple[int, int]], window: int | None) -> torch.Tensor:
    """Return the attention of the last queries of a sequence of CONTEXT tokens, whose values are all positive."""
    batch, whole = attention_batch(plan, PAGE_SIZE)
    num_keys = len(whole.slots_T)
    keys, values, queries = tensors(num_keys)
    kv = kernels.allocate_kv(NUM_PAGES, PAGE_SIZE, 1, HEAD_SIZE)
    kernels.write_kv(kv, keys, values, whole)
    rows = batch.query_starts[1]
    return kernels.attention(queries[-rows:], kv, batch, HEAD_SIZE**-0.5, window)


def tensors(num_keys: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return keys, values and queries. Nearly equal weights make the sums as large as they can be."""
    keys, values, queries = (
        random(num_keys, 1, HEAD_SIZE),
        random(num_keys, 1, HEAD_SIZE, seed=1),
        random(3, 2, HEAD_SIZE),
    )
    return keys, values.abs() + 1, queries * 0.1


@pytest.mark.parametrize("window", [None, LONGER_WINDOW, 100], ids=str)
def test_torch_and_c_give_the_same_bits(window: int | None) -> None:
    plan = [(3, CONTEXT)]
    native, reference = (attend(kernels, plan, window) for kernels in (NATIVE, REFERENCE))
    assert same_bits(native, reference)
    keys, values, queries = tensors(CONTEXT)
    expected = attend_key_by_key(queries.double(), keys.double(), values.double(), plan, window, None)
    assert near(native, expected.float(), 1e-3)


@pytest.mark.parametrize("window", [None, LONGER_WINDOW], ids=str)
@pytest.mark.parametrize("kernels", [NATIVE, REFERENCE], ids=["native", "reference"])
def test_bits_do_not_depend_on_the_chunk(kernels: IntegerKernels, window: int | None) -> None:
    together, alone = (attend(kernels, [(count, CONTEXT)], window) for count in (3, 1))
    assert torch.equal(together[-1:], alone)


def test_no_exact_sum_is_larger_than_float64_holds() -> None:
    """Check the longest exact sum, with the largest integers that its format allows."""
    largest = max((levels << bits) << 11 for levels, bits in ((8191, 12), (127, 14)))
    assert largest * EXACT_KEYS <= 1 << 53
