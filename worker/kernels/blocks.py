"""The number format of the integer mode's linears: blocks of 64, turned and rounded to bytes, with a scale for each.

Both the rows of the input and those of the weights are padded with zeros to whole blocks and turned, block by block, by a
Hadamard matrix H of ones and minus ones: (x H) (w H)^T = 64 x w^T, so the product stays the same, and an element
that is many times as large as the rest is spread over its block (QuaRot, https://arxiv.org/abs/2404.00456, turns whole
layers). Then 127 levels on both sides lose no more than other servers lose with 32 inputs to a scale.

A product of two blocks is an integer below 64 * 127 * 127 < 2^20, exact in int32 and float32 in any order. Everything else is one
IEEE operation after the other, so the bits depend on nobody else: see fixed_point.py.

Legend as in batch.py; X rows, I inner dimension, G blocks of a row.
"""

import torch
from torch.nn import functional

from worker.kernels.fixed_point import round_rows

BLOCK = 64
LEVELS = 127


def num_blocks(num_in: int) -> int:
    return -(-num_in // BLOCK)


def round_blocks(x_XI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers as floats [X, G, BLOCK], and scales [X, G, 1]."""
    padded_XI = functional.pad(x_XI, (0, -x_XI.shape[1] % BLOCK))
    return round_rows(turn(padded_XI.view(len(x_XI), num_blocks(x_XI.shape[1]), BLOCK)), LEVELS)


def turn(x_XGB: torch.Tensor) -> torch.Tensor:
    """Each block times the Hadamard matrix: sums and differences of neighbours, then of pairs, of fours, and so on."""
    shape, distance = x_XGB.shape, 1
    while distance < BLOCK:
        first, second = x_XGB.reshape(*shape[:-1], BLOCK // (2 * distance), 2, distance).unbind(-2)
        x_XGB = torch.stack((first + second, first - second), dim=-2)
        distance *= 2
    return x_XGB.view(shape)
