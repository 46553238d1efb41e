"""The elementwise arithmetic of the integer mode: rounding rows to integers, 2^x, and functions made from it.

It uses only IEEE operations with one right answer (multiply, add, divide, round, maximum), one per torch call, so that a
compiler cannot fuse two of them and a vector's tail gives the same bits as its body. torch.exp, silu, addcmul and even
torch.sqrt (if a vector library computes it) guarantee neither.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

LOG2_E = 1.4426950408889634
TINY = 1e-20
"""Smallest magnitude from which a row's scale is computed, which keeps all scales normal numbers. A row whose largest magnitude
is below it is practically zero."""

EXP2_HIGHEST, *EXP2_COEFFICIENTS = torch.tensor(
    [0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253, 0.6931470036506653]
)
"""2^f = 1 + f * q(f) on [-1/2, 1/2], highest power first; minimax fit, relative error 2e-7 in float32."""


def round_rows(x: torch.Tensor, levels: int, out: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers in [-levels, levels], as floats, and the scale [..., 1] of each row: x ~ integers * scale.

    levels <= 2^22, so that the quotient is rounded to an integer only once. A row with NaN or infinity has NaN or infinity as
    its scale.
    """
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min_(TINY).mul_(constant(1.0 / levels))
    return torch.div(x, scale, out=out).round_(), scale


def exp2_(x: torch.Tensor) -> torch.Tensor:
    """Replace x by 2^x, in place. x is clamped to [-126, 127]."""
    x.clamp_(-126.0, 127.0)
    exponent = x.round()
    x.sub_(exponent)
    power = x * EXP2_HIGHEST
    for coefficient in EXP2_COEFFICIENTS:
        power.add_(coefficient).mul_(x)
    torch.add(power, constant(1.0), out=x)
    # Adding to a float's exponent bits multiplies by a power of two.
    x.view(torch.int32).add_(exponent.mul_(constant(float(1 << 23))).to(torch.int32))
    return x


def exp2_array(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 2^x as a new array, with the same bits as `exp2_`. It uses numpy, whose threads need not wait for each other."""
    x = np.clip(x, -126.0, 127.0)
    exponent = np.rint(x)
    x -= exponent
    power = x * float(EXP2_HIGHEST)
    for coefficient in EXP2_COEFFICIENTS:
        power += float(coefficient)
        power *= x
    power += 1.0
    power.view(np.int32)[...] += exponent.astype(np.int32) << 23
    return power


def tanh_(x: torch.Tensor) -> torch.Tensor:
    """Replace x by tanh(x) in place, as 1 - 2 / (1 + e^2x). The error is at most 2e-7, near zero too, as caps need."""
    divisor = exp2_(x.mul_(constant(2 * LOG2_E))).add_(constant(1.0))
    return torch.div(constant(-2.0), divisor, out=x).add_(constant(1.0))


def sqrt_(x: torch.Tensor) -> torch.Tensor:
    """Replace x by its square root, in place.

    numpy uses the processor's instruction, which rounds correctly; torch calls MKL, which is sometimes off by one bit.
    """
    np.sqrt(x.numpy(), out=x.numpy())
    return x


@cache
def constant(value: float) -> torch.Tensor:
    """Return a float32 tensor with one number, made once; torch would convert a Python number at each call."""
    return torch.tensor(value, dtype=torch.float32)
