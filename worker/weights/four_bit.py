"""A linear's weights in the four-bit form of a file: integers from 0 to 15, with a scale and a minimum for each 32 inputs.

Several of GGML's formats have this form; their decoders (dequantize.py) return one row per block.

Legend: O, I outputs and inputs of a linear, G blocks of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FourBitWeight:
    """Weights with the values scale * integer + minimum."""

    integers_OI: torch.Tensor
    """uint8."""
    scale_OG: torch.Tensor
    """float32, like the minima."""
    minimum_OG: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        return self.integers_OI.shape

    @property
    def nbytes(self) -> int:
        return self.integers_OI.nbytes + self.scale_OG.nbytes + self.minimum_OG.nbytes

    def dequantize(self) -> torch.Tensor:
        """Return float32 [O, I], with each operation rounded on its own, as in ggml."""
        values_OGB = self.integers_OI.view(*self.scale_OG.shape, BLOCK).float()
        return values_OGB.mul_(self.scale_OG[..., None]).add_(self.minimum_OG[..., None]).view(self.shape)

    def view(self, num_out: int) -> Self:
        """Return the same blocks as `num_out` rows."""
        return type(self)(
            integers_OI=self.integers_OI.view(num_out, -1),
            scale_OG=self.scale_OG.view(num_out, -1),
            minimum_OG=self.minimum_OG.view(num_out, -1),
        )

    def rows(self, order: torch.Tensor) -> Self:
        return type(self)(
            integers_OI=self.integers_OI[order], scale_OG=self.scale_OG[order], minimum_OG=self.minimum_OG[order]
        )


AnyWeight = torch.Tensor | FourBitWeight
"""The weight of a linear, [out, in]: float32, or four-bit as in the file."""


def stack(weights: Sequence[AnyWeight]) -> AnyWeight:
    """Stack linears that read the same input into one, which is four-bit only if all of them are."""
    if len(weights) == 1:
        return weights[0]
    four_bit = [weight for weight in weights if isinstance(weight, FourBitWeight)]
    if len(four_bit) < len(weights):
        return torch.cat([as_float32(weight) for weight in weights])
    return FourBitWeight(
        integers_OI=torch.cat([weight.integers_OI for weight in four_bit]),
        scale_OG=torch.cat([weight.scale_OG for weight in four_bit]),
        minimum_OG=torch.cat([weight.minimum_OG for weight in four_bit]),
    )


def as_float32(weight: AnyWeight) -> torch.Tensor:
    return weight.dequantize() if isinstance(weight, FourBitWeight) else weight.float()
