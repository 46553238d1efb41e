"""The Llama family: Llama 2 and 3, SmolLM, Mistral without windows, and whatever else shares their architecture.

Takes its tensors from the checkpoint when it is made. Between token ids and logits it calls nothing but kernels and views.

Legend as in batch.py.
"""

from collections.abc import Sequence

import torch

from pagoda.models.model import ModelConfig
from worker.batch import StepBatch
from worker.kernels.interface import Kernels, LayerKV
from worker.layers.attention import Attention
from worker.layers.mlp import MLP
from worker.layers.rope import RopeTable
from worker.weights.checkpoint import Weights


class LlamaModel:
    def __init__(self, config: ModelConfig, kernels: Kernels, weights: Weights) -> None:
        self.config = config
        self._kernels = kernels
        vocabulary_shape = (config.vocab_size, config.hidden_size)
        self._embedding_VD = weights.take("embedding.weight", vocabulary_shape)
        self._rope = RopeTable.make(config)
        weights.drop("rope_factors")  # the configuration says the same
        self._layers = [LlamaLayer(config, kernels, weights, f"layers.{i}") for i in range(config.num_layers)]
        self._final_norm_D = weights.take("final_norm.weight", (config.hidden_size,))
        if config.tie_word_embeddings:
            weights.drop("output.weight")
            self._output = kernels.pack_linear(self._embedding_VD)
        else:
            self._output = kernels.pack_linear(weights.take("output.weight", vocabulary_shape))

    @property
    def weights_bytes(self) -> int:
        outer = self._embedding_VD.nbytes + self._rope.num_bytes + self._final_norm_D.nbytes + self._output.num_bytes
        return outer + sum(layer.num_bytes for layer in self._layers)

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        kernels = self._kernels
        x_TD = kernels.gather_rows(self._embedding_VD, batch.token_ids_T)
        cos_TH = kernels.gather_rows(self._rope.cos_PH, batch.positions_T)
        sin_TH = kernels.gather_rows(self._rope.sin_PH, batch.positions_T)
        for layer, layer_kv in zip(self._layers, kv, strict=True):
            x_TD = layer.forward(x_TD, cos_TH, sin_TH, layer_kv, batch)
        x_RD = kernels.gather_rows(x_TD, batch.sample_rows_R)
        return kernels.linear(kernels.rms_norm(x_RD, self._final_norm_D, self.config.rms_norm_eps), self._output)


class LlamaLayer:
    def __init__(self, config: ModelConfig, kernels: Kernels, weights: Weights, prefix: str) -> None:
        self._attention = Attention(config, kernels, weights, prefix)
        self._mlp = MLP(config, kernels, weights, prefix)

    @property
    def num_bytes(self) -> int:
        return self._attention.num_bytes + self._mlp.num_bytes

    def forward(
        self, x_TD: torch.Tensor, cos_TH: torch.Tensor, sin_TH: torch.Tensor, kv: LayerKV, batch: StepBatch
    ) -> torch.Tensor:
        return self._mlp.forward(self._attention.forward(x_TD, cos_TH, sin_TH, kv, batch))
