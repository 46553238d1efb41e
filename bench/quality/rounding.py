"""Roundings of weights, activations and cached keys to a number format, as functions from float32 to float32.

Rows are rounded along their last dimension, over which a linear layer sums.
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
    """Return a rounding to integers in [-levels, levels], with one scale per `block` elements of a row, or per row if None.

    A row's last block may be shorter. With `half_scale` the float32 scale is used for rounding and then stored as
    float16, as in GGML's Q8_0 and Q8_1.
    """

    def rounding(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        blocks = F.pad(x, (0, -size % (block or size))).view(*x.shape[:-1], -1, block or size)
        scale = blocks.abs().amax(dim=-1, keepdim=True) / levels
        rounded = (blocks / scale.where(scale > 0, 1.0)).round_()
        kept: torch.Tensor = rounded.mul_(half(scale) if half_scale else scale).flatten(-2)[..., :size]
        return kept

    return rounding


def remainders_too(above: float, rounding: Rounding, block: int) -> Rounding:
    """Return a rounding that also rounds what remains of outstanding blocks, and adds it.

    A block is outstanding if its largest magnitude is more than `above` times the mean of its row's largest magnitudes.
    """

    def rounding_twice(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[-1]
        largest = F.pad(x, (0, -size % block)).view(*x.shape[:-1], -1, block).abs().amax(dim=-1)
        is_outstanding = largest > above * largest.mean(dim=-1, keepdim=True)
        rounded = rounding(x)
        return rounded + rounding(x - rounded) * is_outstanding.repeat_interleave(block, dim=-1)[..., :size]

    return rounding_twice


def outliers_apart(limit: float, rounding: Rounding) -> Rounding:
    """Return a rounding that keeps elements beyond `limit` times their row's root mean square, and rounds the rest without them."""

    def rounding_the_rest(x: torch.Tensor) -> torch.Tensor:
        is_outlier = x.abs() > limit * x.square().mean(dim=-1, keepdim=True).sqrt()
        return x.where(is_outlier, rounding(x.masked_fill(is_outlier, 0.0)))

    return rounding_the_rest


def rotated(size: int, rounding: Rounding) -> Rounding:
    """Return a rounding of Hadamard-rotated blocks of `size` elements, which are rotated back afterwards.

    A product does not change if both factors are rotated, so real kernels need not rotate back.
    """

    def rotate(x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, size) @ _hadamard(size)).view(x.shape)

    return lambda x: rotate(rounding(rotate(x)))


@cache
def _hadamard(size: int) -> torch.Tensor:
    """Return a Hadamard matrix, which is symmetric and its own inverse. `size` must be a power of two."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1))) * 0.5**0.5
    return matrix
