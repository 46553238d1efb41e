"""The attention half of a decoder layer: norm, queries, keys and values in one linear, rope, attention, output.

Legend as in batch.py.
"""

import torch

from pagoda.models.model import ModelConfig
from worker.batch import StepBatch
from worker.kernels.interface import Kernels, LayerKV
from worker.layers.linear import take_linear
from worker.weights.checkpoint import Weights


class Attention:
    def __init__(self, config: ModelConfig, kernels: Kernels, weights: Weights, prefix: str) -> None:
        self._kernels = kernels
        self._eps = config.rms_norm_eps
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_size = config.head_size
        self._scale = config.head_size**-0.5
        q_size, kv_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.norm_D = weights.take(f"{prefix}.attention_norm.weight", (config.hidden_size,))
        qkv_sizes = {f"{prefix}.q": q_size, f"{prefix}.k": kv_size, f"{prefix}.v": kv_size}
        self.qkv = take_linear(kernels, weights, qkv_sizes, config.hidden_size)
        self.o = take_linear(kernels, weights, {f"{prefix}.o": config.hidden_size}, q_size)

    @property
    def num_bytes(self) -> int:
        return self.norm_D.nbytes + self.qkv.num_bytes + self.o.num_bytes

    def forward(
        self, x_TD: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor, kv: LayerKV, batch: StepBatch
    ) -> torch.Tensor:
        kernels, num_heads = self._kernels, self._num_heads
        qkv_TO = kernels.linear(kernels.rms_norm(x_TD, self.norm_D, self._eps), self.qkv)
        qkv_TNH = qkv_TO.view(qkv_TO.shape[0], -1, self._head_size)
        qk_TNH, v_TNH = qkv_TNH.tensor_split([num_heads + self._num_kv_heads], dim=1)
        q_TNH, k_TNH = kernels.rope(qk_TNH, cos_TH, sin_TH).tensor_split([num_heads], dim=1)
        kernels.write_kv(kv, k_TNH, v_TNH, batch)
        out_TNH = kernels.attention(q_TNH, kv, batch, self._scale)
        return kernels.add(x_TD, kernels.linear(out_TNH.flatten(1), self.o))
