"""Linears of quantized checkpoints whose weights are floats of eight bits (E4M3) with scales."""

from dataclasses import dataclass

import torch

from pagoda.models.formats.quantization.scheme import Scheme
from worker.weights.linear_format import StoredWeight


@dataclass(frozen=True, slots=True)
class Float8Format:
    """The parts "weight" [O, I] and the scales: one, one for each row, or one for each block of rows and inputs."""

    scheme: Scheme

    @property
    def name(self) -> str:
        return str(self.scheme.layout)

    def unpack(self, weight: StoredWeight, first: int, end: int) -> torch.Tensor:
        rows = torch.arange(first, end) if weight.row_order_O is None else weight.row_order_O[first:end]
        scales = weight.parts[self.scheme.scale_name].float()
        floats_RI = weight.parts["weight"].view(torch.uint8).index_select(0, rows).view(torch.float8_e4m3fn).float()
        if self.scheme.block is not None:
            num_rows, num_inputs = self.scheme.block
            scale_RB = scales.index_select(0, rows // num_rows)
            return floats_RI.mul_(scale_RB.repeat_interleave(num_inputs, dim=1)[:, : floats_RI.shape[1]])
        return floats_RI.mul_(scales if scales.numel() == 1 else scales.index_select(0, rows))
