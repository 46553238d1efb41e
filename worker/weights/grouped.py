"""A linear's weights as the integers of a file, in groups of 16 or 32 inputs with a scale, and in some formats a minimum, for each.

All of GGML's integer formats have this form; their decoders (dequantize.py) return one row per block.

Legend: O, I outputs and inputs of a linear, G groups of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch

BLOCK = 32
"""The number of inputs that are rounded with one scale: the size of a group, or twice that."""
GROUP_SIZES = (16, 32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupedWeight:
    """Weights with the values scale * integer + minimum."""

    integers_OI: torch.Tensor
    """int8."""
    scale_OG: torch.Tensor
    """float32, like the minima."""
    minimum_OG: torch.Tensor | None

    @property
    def shape(self) -> torch.Size:
        return self.integers_OI.shape

    @property
    def group_size(self) -> int:
        return self.shape[1] // self.scale_OG.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.integers_OI, self.scale_OG, self.minimum_OG) if part is not None)

    def dequantize(self) -> torch.Tensor:
        """Return float32 [O, I], with each operation rounded on its own, as in ggml."""
        values_OGW = self.integers_OI.view(*self.scale_OG.shape, -1).float().mul_(self.scale_OG[..., None])
        if self.minimum_OG is not None:
            values_OGW.add_(self.minimum_OG[..., None])
        return values_OGW.view(self.shape)

    def view(self, num_out: int) -> Self:
        """Return the same groups as `num_out` rows."""
        return self._each(lambda part: part.view(num_out, -1))

    def rows(self, order: torch.Tensor) -> Self:
        return self._each(lambda part: part[order])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        return type(self)(
            integers_OI=change(self.integers_OI),
            scale_OG=change(self.scale_OG),
            minimum_OG=None if self.minimum_OG is None else change(self.minimum_OG),
        )


AnyWeight = torch.Tensor | GroupedWeight
"""The weight of a linear, [out, in]: floats, or integers in groups."""


def as_float32(weight: AnyWeight) -> torch.Tensor:
    """Return the values as float32 [O, I]."""
    return weight.dequantize() if isinstance(weight, GroupedWeight) else weight.float()
