"""The number format of the integer mode's linears: blocks of 64, Hadamard-rotated and rounded to bytes, with a scale for each.

The rows of the input and of the weights are padded with zeros to whole blocks and multiplied, block by block, with a Hadamard
matrix H of ones and minus ones. Since (x H) (w H)^T = 64 x w^T, the product stays the same up to the factor 64, and an
element much larger than the others is spread over its block (QuaRot, https://arxiv.org/abs/2404.00456, rotates whole layers).
With that, 127 levels on both sides lose no more than other servers lose with one scale per 32 inputs.

A product of two blocks is an integer below 64 * 127 * 127 < 2^20, exact in int32 and float32 in any order. Everything else is
a sequence of single IEEE operations, so the bits do not depend on the rest of the batch: see fixed_point.py.

Legend as in step_batch.py; X rows, I, O inner and outer dimension, G blocks of a row, B elements of a block.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from worker.kernels.fixed_point import round_rows

BLOCK = 64
LEVELS = 127
WEIGHTS_PER_PASS = 1 << 18
"""Number of weights rounded at once when a model is loaded: few enough to stay in a core's cache between operations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLinear:
    packed: Any
    """The integers, scales and so on, in the implementation's own form, opaque to other code."""
    num_in: int
    num_out: int
    packed_bytes: int
    bias_O: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.packed_bytes + (0 if self.bias_O is None else self.bias_O.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteMatrix:
    """A matrix of bytes with a scale for each block of inputs."""

    integers_GBO: torch.Tensor
    scale_GO: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.integers_GBO.nbytes + self.scale_GO.nbytes


def pack_bytes(weight_OI: torch.Tensor) -> ByteMatrix:
    (num_out, num_in), num_groups = weight_OI.shape, num_blocks(weight_OI.shape[1])
    integers_OI = torch.empty(num_out, num_groups * BLOCK, dtype=torch.int8)
    scale_GO = torch.empty(num_groups, num_out)
    rows_per_pass = max(1, WEIGHTS_PER_PASS // num_in)
    for first in range(0, num_out, rows_per_pass):
        some = slice(first, first + rows_per_pass)
        rounded_OGB, scale_OG1 = round_blocks(weight_OI[some])
        integers_OI[some] = rounded_OGB.flatten(1)
        # Both sides were Hadamard-rotated: the product is BLOCK times too large, and the division is exact.
        scale_GO[:, some] = scale_OG1.squeeze(2).T / BLOCK
    return ByteMatrix(
        integers_GBO=integers_OI.view(num_out, -1, BLOCK).permute(1, 2, 0).contiguous(), scale_GO=scale_GO
    )


def multiply_bytes(x_TI: torch.Tensor, matrix: ByteMatrix) -> torch.Tensor:
    integers_TGB, scale_TG1 = round_blocks(x_TI)
    y_TO = torch.zeros(len(x_TI), matrix.scale_GO.shape[1])
    for group, (weight_BO, scale_O) in enumerate(zip(matrix.integers_GBO, matrix.scale_GO, strict=True)):
        products_TO = integers_TGB[:, group] @ weight_BO.float()
        y_TO.add_(products_TO.mul_(scale_O).mul_(scale_TG1[:, group]))
    return y_TO


def num_blocks(num_in: int) -> int:
    return -(-num_in // BLOCK)


def round_blocks(x_XI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers as floats [X, G, BLOCK], and scales [X, G, 1]."""
    padded_XI = functional.pad(x_XI, (0, -x_XI.shape[1] % BLOCK))
    return round_rows(rotate(padded_XI.view(len(x_XI), num_blocks(x_XI.shape[1]), BLOCK)), LEVELS)


def rotate(x_XGB: torch.Tensor) -> torch.Tensor:
    """Multiply each block with the Hadamard matrix: sums and differences of neighbours, then of pairs, fours, and so on.

    The size of a block must be a power of two.
    """
    shape, distance = x_XGB.shape, 1
    while distance < shape[-1]:
        first, second = x_XGB.reshape(*shape[:-1], shape[-1] // (2 * distance), 2, distance).unbind(-2)
        x_XGB = torch.stack((first + second, first - second), dim=-2)
        distance *= 2
    return x_XGB.reshape(shape)
