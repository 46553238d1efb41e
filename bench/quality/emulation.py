"""The reference kernels with whatever a number format would round put in between: quality without writing the kernels.

Sums stay in float32: their rounding is far below that of any format here.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from bench.quality.rounding import Rounding, exact
from worker.kernels.interface import LayerKV, LinearWeight
from worker.kernels.reference import Float32Linear, ReferenceKernels
from worker.kernels.step_batch import StepBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    weights: Rounding = exact
    """Of linears, the output matrix among them; the embedding is only looked up."""
    activations: Rounding = exact
    """What enters a linear."""
    kv: Rounding = exact
    """Keys and values, per token and head."""


EXACT = Format()


class EmulatedKernels(ReferenceKernels):
    """Weights are rounded as they are used, so that one model in memory serves for all formats, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.format = EXACT

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, Float32Linear)
        return F.linear(self.format.activations(x_TI), self.format.weights(weight.weight_OI), weight.bias_O)

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        super().write_kv(kv, self.format.kv(k_TNH), self.format.kv(v_TNH), batch)
