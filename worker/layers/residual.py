"""The two residual steps of a decoder layer.

Legend as in step_batch.py.
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from worker.kernels.interface import LayerKV
from worker.kernels.step_batch import StepBatch
from worker.layers.attention import Attention
from worker.layers.rope import Rotation
from worker.layers.source import LayerSource


class FeedForward(Protocol):
    """An MLP, or what takes its place."""

    @property
    def num_bytes(self) -> int: ...

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor: ...


class ResidualLayer:
    """A layer that computes x + norm(attention(norm(x))), then x + norm(mlp(norm(x))).

    Families have some of the four norms; `norms` names them as LayerTensors does. What is added to x may have a factor.
    """

    def __init__(self, source: LayerSource, attention: Attention, mlp: FeedForward, norms: Sequence[str]) -> None:
        self._kernels = source.kernels
        self._eps = source.config.rms_norm_eps
        self._scale = source.config.residual_scale
        self._attention, self._mlp = attention, mlp
        self._norms = {name: source.take_norm(name) for name in norms}

    @property
    def num_bytes(self) -> int:
        return self._attention.num_bytes + self._mlp.num_bytes + sum(norm.nbytes for norm in self._norms.values())

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor:
        attended_TD = self._attention.forward(self._norm("attention_norm", x_TD), rotation, kv, batch)
        x_TD = self._add(x_TD, self._norm("after_attention_norm", attended_TD))
        changed_TD = self._mlp.forward(self._norm("mlp_norm", x_TD))
        return self._add(x_TD, self._norm("after_mlp_norm", changed_TD))

    def _norm(self, name: str, x_TD: torch.Tensor) -> torch.Tensor:
        """Return the norm of x, or x if the family does not have this norm."""
        weight_D = self._norms.get(name)
        return x_TD if weight_D is None else self._kernels.rms_norm(x_TD, weight_D, self._eps)

    def _add(self, x_TD: torch.Tensor, change_TD: torch.Tensor) -> torch.Tensor:
        if self._scale != 1.0:
            change_TD = self._kernels.scale(change_TD, self._scale)
        return self._kernels.add(x_TD, change_TD)
