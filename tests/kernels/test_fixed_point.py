"""Tests that the elementwise arithmetic is accurate, with the same bits at each place of a tensor."""

import math

import pytest
import torch

from worker.kernels.fixed_point import exp2_, exp2_array, round_rows, sqrt_


def test_exp2_is_accurate() -> None:
    x = torch.linspace(-126, 126, 200_001)
    expected = torch.exp2(x.double())
    assert float(((exp2_(x.clone()).double() - expected) / expected).abs().max()) < 3e-7


def test_exp2_in_numpy_has_the_same_bits() -> None:
    x = torch.cat((torch.linspace(-130, 130, 100_001), torch.tensor([-math.inf, math.inf, 0.0, -0.0])))
    assert torch.equal(torch.from_numpy(exp2_array(x.numpy())), exp2_(x.clone()))


def test_exp2_of_whole_numbers_is_exact() -> None:
    x = torch.arange(-126, 128).float()
    assert exp2_(x.clone()).tolist() == [math.ldexp(1.0, n) for n in range(-126, 128)]


def test_exp2_at_the_ends() -> None:
    x = torch.tensor([-math.inf, -1e30, 1e30, math.inf])
    assert exp2_(x).tolist() == [2.0**-126, 2.0**-126, 2.0**127, 2.0**127]
    assert exp2_(torch.tensor([math.nan, 0.0])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 31, 33, 1000])
def test_bits_do_not_depend_on_the_place_in_a_tensor(size: int) -> None:
    """Check that the bodies and the tails of vectors give the same bits, also for square roots."""
    torch.manual_seed(size)
    x = torch.randn(size) * 20
    assert torch.equal(exp2_(x.clone()), torch.cat([exp2_(value.clone().view(1)) for value in x]))
    positive = x.double().abs()
    assert sqrt_(positive.clone()).tolist() == [math.sqrt(value) for value in positive.tolist()]


@pytest.mark.parametrize("levels", [127, 8192, 32767, 1 << 22])
def test_rounding_stays_in_range_and_near(levels: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 64) * torch.logspace(-15, 15, 50)[:, None]
    integers, scale = round_rows(x, levels)
    assert torch.equal(integers, integers.round())
    assert float(integers.abs().max()) <= levels
    largest = x.abs().amax(dim=1, keepdim=True)
    assert bool(((integers * scale - x).abs() <= largest * (0.5 / levels + 2e-7)).all())


def test_rounding_of_rows_without_scale() -> None:
    x = torch.tensor([[0.0, 0.0], [1e-30, -1e-30], [math.nan, 1.0], [math.inf, 1.0]])
    integers, scale = round_rows(x, 127)
    assert integers[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert scale.isfinite().flatten().tolist() == [True, True, False, False]
