"""The attention block: queries, keys and values from one linear, head norms if the model has them, rope, attention, output.

Legend as in step_batch.py.
"""

import torch

from pagoda.models.model import ModelConfig
from worker.kernels.interface import LayerKV, LinearWeight
from worker.kernels.step_batch import StepBatch
from worker.layers.rope import Rotation
from worker.layers.source import LayerSource


def qkv_sizes(config: ModelConfig) -> dict[str, int]:
    """Return the numbers of outputs of queries, keys and values, by name."""
    kv_size = config.num_kv_heads * config.head_size
    return {"q": config.num_heads * config.head_size, "k": kv_size, "v": kv_size}


class Attention:
    def __init__(self, source: LayerSource, qkv: LinearWeight) -> None:
        config = source.config
        self._kernels = source.kernels
        self._eps = config.rms_norm_eps
        self._num_heads = config.num_heads
        self._num_kv_heads = config.num_kv_heads
        self._head_size = config.head_size
        self._scale = config.head_size**-0.5 if config.query_scale is None else config.query_scale
        self._window = config.window_of(source.index)
        self._logit_cap = config.attention_logit_cap
        self._qkv = qkv
        self._qk_norm_NH = _take_qk_norm(source) if config.qk_norm else None
        self._o = source.take_linear({"o": config.hidden_size}, config.num_heads * config.head_size)

    @property
    def num_bytes(self) -> int:
        norm_bytes = 0 if self._qk_norm_NH is None else self._qk_norm_NH.nbytes
        return self._qkv.num_bytes + norm_bytes + self._o.num_bytes

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor:
        kernels, num_heads = self._kernels, self._num_heads
        qkv_TO = kernels.linear(x_TD, self._qkv)
        qkv_TNH = qkv_TO.view(qkv_TO.shape[0], -1, self._head_size)
        qk_TNH, v_TNH = qkv_TNH.tensor_split([num_heads + self._num_kv_heads], dim=1)
        if self._qk_norm_NH is not None:
            qk_TNH = kernels.rms_norm(qk_TNH, self._qk_norm_NH, self._eps)
        q_TNH, k_TNH = kernels.rope(qk_TNH, rotation.cos_TH, rotation.sin_TH).tensor_split([num_heads], dim=1)
        kernels.write_kv(kv, k_TNH, v_TNH, batch)
        out_TNH = kernels.attention(q_TNH, kv, batch, self._scale, self._window, self._logit_cap)
        return kernels.linear(out_TNH.flatten(1), self._o)


def _take_qk_norm(source: LayerSource) -> torch.Tensor:
    """Return [N, H]: the queries' norm for each of their heads, then the keys' norm for each of theirs."""
    config = source.config
    q_norm_H = source.take_norm("q_norm", config.head_size)
    k_norm_H = source.take_norm("k_norm", config.head_size)
    return torch.cat((q_norm_H.expand(config.num_heads, -1), k_norm_H.expand(config.num_kv_heads, -1)))
