"""Roundings of weights, activations and cached keys, as functions from float32 to float32: what a format keeps of a tensor.

Rows are rounded along their last dimension, which is what a linear sums over. Knows nothing about models.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional as F

Rounding = Callable[[torch.Tensor], torch.Tensor]


def exact(x: torch.Tensor) -> torch.Tensor:
    return x


def half(x: torch.Tensor) -> torch.Tensor:
    return x.half().float()


def bfloat16(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


def integers(levels: int, *, block: int | None = None, half_scale: bool = False) -> Rounding:
    """To [-levels, levels], with a scale for each `block` elements of a row, the last ones perhaps fewer; None: per row.

    `half_scale` stores the scale as float16 after rounding by the float32 one: GGML's Q8_0 and Q8_1.
    """

    def rounding(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        blocks = F.pad(x, (0, -size % (block or size))).view(*x.shape[:-1], -1, block or size)
        scale = blocks.abs().amax(dim=-1, keepdim=True) / levels
        rounded = (blocks / scale.where(scale > 0, 1.0)).round_()
        kept: torch.Tensor = rounded.mul_(half(scale) if half_scale else scale).flatten(-2)[..., :size]
        return kept

    return rounding


def outliers_apart(limit: float, rounding: Rounding) -> Rounding:
    """What is beyond `limit` times its row's root mean square is kept as it is, and the rest rounded without it."""

    def rounding_the_rest(x: torch.Tensor) -> torch.Tensor:
        is_outlier = x.abs() > limit * x.square().mean(dim=-1, keepdim=True).sqrt()
        return x.where(is_outlier, rounding(x.masked_fill(is_outlier, 0.0)))

    return rounding_the_rest


def rotated(size: int, rounding: Rounding) -> Rounding:
    """Rounded after each `size` elements were rotated by a Hadamard matrix, and turned back.

    With both factors of a product rotated alike it stays the same, so that turning back is not computed in earnest.
    """

    def turn(x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, size) @ _hadamard(size)).view(x.shape)

    return lambda x: turn(rounding(turn(x)))


@cache
def _hadamard(size: int) -> torch.Tensor:
    """Symmetric and its own inverse. The size is a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1))) * 0.5**0.5
    return matrix
