"""The reference kernels with a number format's rounding inserted, to measure its quality without kernels for it.

Sums stay in float32, whose rounding errors are far smaller than those of any format here.
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
    """The roundings of a number format."""

    weights: Rounding = exact
    """Rounding of linear layers' weights, including the output matrix. The embedding is not rounded."""
    activations: Rounding = exact
    """Rounding of linear layers' inputs."""
    kv: Rounding = exact
    """Rounding of keys and values, per token and head."""


EXACT = Format()


class EmulatedKernels(ReferenceKernels):
    """Reference kernels that round weights when they are used, so that all formats share one model in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.format = EXACT

    def linear(self, x_TI: torch.Tensor, weight: LinearWeight) -> torch.Tensor:
        assert isinstance(weight, Float32Linear)
        return F.linear(self.format.activations(x_TI), self.format.weights(weight.weight_OI), weight.bias_O)

    def write_kv(self, kv: LayerKV, k_TNH: torch.Tensor, v_TNH: torch.Tensor, batch: StepBatch) -> None:
        super().write_kv(kv, self.format.kv(k_TNH), self.format.kv(v_TNH), batch)
