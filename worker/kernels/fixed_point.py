"""The elementwise arithmetic of the integer mode: rounding rows to integers, 2^x, and what is made from it.

Only IEEE operations that have one right answer (multiply, add, divide, round, maximum), one per torch call, so that a
compiler cannot fuse two of them and a vector's tail cannot be computed by other code than its body. torch.exp, silu,
addcmul and even torch.sqrt (where a vector library computes it) promise neither.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

LOG2_E = 1.4426950408889634
TINY = 1e-20
"""Rows whose largest magnitude is below this are as good as zero; it keeps all scales normal numbers."""

EXP2_HIGHEST, *EXP2_COEFFICIENTS = torch.tensor(
    [0.001326472731307149, 0.009671512991189957, 0.05550733581185341, 0.24022242426872253, 0.6931470036506653]
)
"""2^f = 1 + f * q(f) on [-1/2, 1/2], highest power first; minimax fit, relative error 2e-7 in float32."""


def round_rows(x: torch.Tensor, levels: int, out: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers in [-levels, levels], as floats, and the scale [..., 1] that turns them back: x ~ integers * scale.

    levels <= 2^22, so that the quotient is rounded to an integer only once. A row with NaN or infinity gets such a scale.
    """
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min_(TINY).mul_(constant(1.0 / levels))
    return torch.div(x, scale, out=out).round_(), scale


def exp2_(x: torch.Tensor) -> torch.Tensor:
    """2^x in place, for x in [-126, 127] (smaller and larger are clamped)."""
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
    """The same bits in numpy, which has no threads that wait for each other; a new array."""
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
    """In place, as 1 - 2 / (1 + e^2x): to within 2e-7, near zero too, which is what caps need."""
    divisor = exp2_(x.mul_(constant(2 * LOG2_E))).add_(constant(1.0))
    return torch.div(constant(-2.0), divisor, out=x).add_(constant(1.0))


def sqrt_(x: torch.Tensor) -> torch.Tensor:
    """In place. numpy uses the processor's instruction, which rounds rightly; torch calls MKL, which is off by a bit at times."""
    np.sqrt(x.numpy(), out=x.numpy())
    return x


@cache
def constant(value: float) -> torch.Tensor:
    """A float32 number to compute with; torch would convert a Python number anew at each call."""
    return torch.tensor(value, dtype=torch.float32)
