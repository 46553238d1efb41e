"""The feed-forward half of a decoder layer: norm, gate and up in one linear, SiLU, down.

Legend as in batch.py; F the intermediate size.
"""

import torch

from pagoda.models.model import ModelConfig
from worker.kernels.interface import Kernels
from worker.layers.linear import take_linear
from worker.weights.checkpoint import Weights


class MLP:
    def __init__(self, config: ModelConfig, kernels: Kernels, weights: Weights, prefix: str) -> None:
        self._kernels = kernels
        self._eps = config.rms_norm_eps
        hidden, inner = config.hidden_size, config.intermediate_size
        self.norm_D = weights.take(f"{prefix}.mlp_norm.weight", (hidden,))
        self.gate_up = take_linear(kernels, weights, {f"{prefix}.gate": inner, f"{prefix}.up": inner}, hidden)
        self.down = take_linear(kernels, weights, {f"{prefix}.down": hidden}, inner)

    @property
    def num_bytes(self) -> int:
        return self.norm_D.nbytes + self.gate_up.num_bytes + self.down.num_bytes

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        kernels = self._kernels
        gate_up_TF = kernels.linear(kernels.rms_norm(x_TD, self.norm_D, self._eps), self.gate_up)
        return kernels.add(x_TD, kernels.linear(kernels.silu_mul(gate_up_TF), self.down))
