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
        self._rotates = config.rotates(source.index)
        self._norm_spans_heads = config.qk_norm and config.qk_norm_spans_heads
        self._norm_is_last = config.qk_norm_after_rotation
        self._qk_norms = _take_qk_norms(source) if config.qk_norm else []
        self._o = source.take_linear({"o": config.hidden_size}, config.num_heads * config.head_size)

    @property
    def num_bytes(self) -> int:
        return self._qkv.num_bytes + self._o.num_bytes + sum(norm.nbytes for norm in self._qk_norms)

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor:
        kernels, num_heads = self._kernels, self._num_heads
        qkv_TO = kernels.linear(x_TD, self._qkv)
        qkv_TNH = qkv_TO.view(qkv_TO.shape[0], -1, self._head_size)
        qk_TNH, v_TNH = qkv_TNH.tensor_split([num_heads + self._num_kv_heads], dim=1)
        # Queries and keys are one tensor as long as one launch can compute both.
        heads = list(qk_TNH.tensor_split([num_heads], dim=1)) if self._norm_spans_heads else [qk_TNH]
        if not self._norm_is_last:
            heads = self._norm(heads)
        if self._rotates:
            heads = self._rotate(heads, rotation)
        if self._norm_is_last:
            heads = self._norm(heads)
        q_TNH, k_TNH = heads if len(heads) == 2 else heads[0].tensor_split([num_heads], dim=1)
        kernels.write_kv(kv, k_TNH, v_TNH, batch)
        out_TNH = kernels.attention(q_TNH, kv, batch, self._scale, self._window, self._logit_cap)
        return kernels.linear(out_TNH.flatten(1), self._o)

    def _norm(self, heads: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return the norm of each head, or of all heads together if their weight has one row. Without weights, return `heads`."""
        if not self._qk_norms:
            return heads
        return [
            self._kernels.rms_norm(x_TNH.view(len(x_TNH), *weight.shape), weight, self._eps).view(x_TNH.shape)
            for x_TNH, weight in zip(heads, self._qk_norms, strict=True)
        ]

    def _rotate(self, heads: list[torch.Tensor], rotation: Rotation) -> list[torch.Tensor]:
        if rotation.of_queries is not None and len(heads) == 1:
            heads = list(heads[0].tensor_split([self._num_heads], dim=1))
        rotations = (rotation.of_queries or rotation, rotation)
        return [self._kernels.rope(x_TNH, r.cos_TH, r.sin_TH) for x_TNH, r in zip(heads, rotations, strict=False)]


def _take_qk_norms(source: LayerSource) -> list[torch.Tensor]:
    """Return one weight [N, H], with the norms of queries and keys repeated for each of their heads.

    If the norms span heads, return two: those of the queries and of the keys, [1, N * H].
    """
    config = source.config
    if config.qk_norm_spans_heads:
        sizes = qkv_sizes(config)
        return [source.take_norm(f"{name}_norm", sizes[name])[None] for name in ("q", "k")]
    q_norm_H = source.take_norm("q_norm", config.head_size)
    k_norm_H = source.take_norm("k_norm", config.head_size)
    return [torch.cat((q_norm_H.expand(config.num_heads, -1), k_norm_H.expand(config.num_kv_heads, -1)))]
