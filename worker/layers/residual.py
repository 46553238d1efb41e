"""The two residual steps of a decoder layer, in the two forms that families use.

Legend as in step_batch.py.
"""

import torch

from worker.kernels.interface import LayerKV
from worker.kernels.step_batch import StepBatch
from worker.layers.attention import Attention
from worker.layers.mlp import MLP
from worker.layers.rope import Rotation
from worker.layers.source import LayerSource


class PreNormLayer:
    """A layer that computes x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, source: LayerSource, attention: Attention, mlp: MLP) -> None:
        self._kernels = source.kernels
        self._eps = source.config.rms_norm_eps
        self._attention, self._mlp = attention, mlp
        self._attention_norm_D = source.take_norm("attention_norm")
        self._mlp_norm_D = source.take_norm("mlp_norm")

    @property
    def num_bytes(self) -> int:
        norm_bytes = self._attention_norm_D.nbytes + self._mlp_norm_D.nbytes
        return self._attention.num_bytes + self._mlp.num_bytes + norm_bytes

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor:
        kernels, eps = self._kernels, self._eps
        attended_TD = self._attention.forward(kernels.rms_norm(x_TD, self._attention_norm_D, eps), rotation, kv, batch)
        x_TD = kernels.add(x_TD, attended_TD)
        return kernels.add(x_TD, self._mlp.forward(kernels.rms_norm(x_TD, self._mlp_norm_D, eps)))


class SandwichNormLayer:
    """A layer that computes x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(self, source: LayerSource, attention: Attention, mlp: MLP) -> None:
        self._kernels = source.kernels
        self._eps = source.config.rms_norm_eps
        self._attention, self._mlp = attention, mlp
        self._attention_norm_D = source.take_norm("attention_norm")
        self._after_attention_norm_D = source.take_norm("after_attention_norm")
        self._mlp_norm_D = source.take_norm("mlp_norm")
        self._after_mlp_norm_D = source.take_norm("after_mlp_norm")

    @property
    def num_bytes(self) -> int:
        return self._attention.num_bytes + self._mlp.num_bytes + 4 * self._mlp_norm_D.nbytes

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor:
        kernels, eps = self._kernels, self._eps
        attended_TD = self._attention.forward(kernels.rms_norm(x_TD, self._attention_norm_D, eps), rotation, kv, batch)
        x_TD = kernels.add(x_TD, kernels.rms_norm(attended_TD, self._after_attention_norm_D, eps))
        changed_TD = self._mlp.forward(kernels.rms_norm(x_TD, self._mlp_norm_D, eps))
        return kernels.add(x_TD, kernels.rms_norm(changed_TD, self._after_mlp_norm_D, eps))
