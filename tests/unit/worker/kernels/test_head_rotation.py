"""Tests that rotating queries and keys leaves their products unchanged and spreads a large element."""

import pytest
import torch

from worker.kernels.head_rotation import rotate_keys, rotate_queries


@pytest.mark.parametrize("head_size", [1, 7, 64, 80, 96, 128, 200, 256])
def test_products_stay_the_same(head_size: int) -> None:
    generator = torch.Generator().manual_seed(head_size)
    queries, keys = torch.randn(2, 5, 3, head_size, generator=generator)
    expected = (queries.double() * keys.double()).sum(-1)
    rotated = (rotate_queries(queries).double() * rotate_keys(keys).double()).sum(-1)
    assert torch.allclose(rotated, expected, atol=1e-5 * head_size)


def test_a_large_element_is_spread_over_its_block() -> None:
    keys = torch.zeros(1, 1, 80)
    keys[..., 3], keys[..., 70] = 64.0, 16.0
    assert torch.equal(rotate_keys(keys).abs(), torch.ones(1, 1, 80))


def test_the_input_stays_unchanged() -> None:
    keys = torch.arange(7.0).view(1, 1, 7)
    rotate_keys(keys)
    assert torch.equal(keys, torch.arange(7.0).view(1, 1, 7))
