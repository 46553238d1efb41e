"""Rope tables against the mathematics they stand for."""

import torch

from worker.layers.rope import cos_sin


def test_cos_and_sin_are_right_in_every_quarter() -> None:
    angles = torch.cat((torch.linspace(0, 30, 20_001), torch.arange(0, 131_072, 7))).double()
    cos, sin = cos_sin(angles)
    assert float((cos.double() - angles.cos()).abs().max()) < 1e-7
    assert float((sin.double() - angles.sin()).abs().max()) < 1e-7


def test_a_quarter_turn_swaps_them() -> None:
    cos, sin = cos_sin(torch.arange(-8, 9).double() * (torch.pi / 2))
    assert cos.round().tolist() == [1.0, 0.0, -1.0, 0.0] * 4 + [1.0]
    assert sin.round().tolist() == [0.0, 1.0, 0.0, -1.0] * 4 + [0.0]
