"""Weights of the integer mode's linears, in the forms in which an implementation multiplies them.

Legend as in batch.py; O outer dimension of a linear.
"""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerLinear:
    """Bytes, with a scale for each 64 inputs: blocks.py."""

    packed: Any
    """The integers and what belongs to them; opaque to everyone but the implementation."""
    num_out: int
    packed_bytes: int
    bias_O: torch.Tensor | None

    @property
    def num_bytes(self) -> int:
        return self.packed_bytes + (0 if self.bias_O is None else self.bias_O.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitLinear(IntegerLinear):
    """The file's own integers, scales and minima, for each 32 inputs: four_bit.py."""
