"""The feed-forward network: gate and up from one linear, the gate's activation, down.

Legend as in step_batch.py; F is the intermediate size.
"""

import torch

from worker.kernels.interface import LinearWeight
from worker.layers.source import LayerSource


class MLP:
    def __init__(self, source: LayerSource, gate_up: LinearWeight, down: LinearWeight) -> None:
        kernels, config = source.kernels, source.config
        self._kernels = kernels
        self._activate_mul = {"silu": kernels.silu_mul, "gelu_tanh": kernels.gelu_tanh_mul}[config.activation]
        self._gate_up, self._down = gate_up, down

    @property
    def num_bytes(self) -> int:
        return self._gate_up.num_bytes + self._down.num_bytes

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        gate_up_TF = self._kernels.linear(x_TD, self._gate_up)
        return self._kernels.linear(self._activate_mul(gate_up_TF), self._down)
