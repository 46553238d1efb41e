"""The decoder that all model families share: a step's token ids go through embedding, layers and final norm to logits.

It takes its tensors from the checkpoint when it is made; the family builds each layer. Between token ids and logits it calls
only kernels and views.

Legend as in step_batch.py.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from pagoda.models.model import ModelConfig
from worker.errors import StepError
from worker.kernels.interface import Kernels, LayerKV, LinearWeight
from worker.kernels.step_batch import StepBatch
from worker.layers.rope import Rotation, first_length, next_length
from worker.layers.rotations import Rotations
from worker.layers.source import LayerSource
from worker.weights.checkpoint import Weights
from worker.weights.linear_format import StoredWeight


class DecoderLayer(Protocol):
    @property
    def num_bytes(self) -> int: ...

    def forward(self, x_TD: torch.Tensor, rotation: Rotation, kv: LayerKV, batch: StepBatch) -> torch.Tensor: ...


MakeLayer = Callable[[LayerSource], DecoderLayer]
"""A model family: a function that takes one layer's tensors and builds the layer."""


class DecoderModel:
    def __init__(self, config: ModelConfig, kernels: Kernels, weights: Weights, make_layer: MakeLayer) -> None:
        self.config = config
        self._kernels = kernels
        self._embedding = kernels.pack_embedding(self._take_matrix(weights, "embedding.weight"))
        weights.release("embedding.weight")
        num_positions = first_length(config.rotary_size or config.head_size, config.max_position)
        self._rotations = Rotations.make(config, num_positions, kernels.device)
        for name in ("rope_factors", "rope_factors_long", "rope_factors_short"):
            weights.drop(name)  # The configuration has the same numbers.
        self._layers = [
            make_layer(LayerSource(config=config, kernels=kernels, weights=weights, index=index))
            for index in range(config.num_layers)
        ]
        final_norm_D = weights.take("final_norm.weight", (config.hidden_size,))
        self._final_norm_D = final_norm_D + config.norm_weight_offset
        self._output = self._take_output(weights)
        self._prepared = kernels.prepare(self._forward)

    @property
    def weights_bytes(self) -> int:
        is_shared = self._output is self._embedding
        outer = self._embedding.num_bytes + self._final_norm_D.nbytes + (0 if is_shared else self._output.num_bytes)
        return outer + self._rotations.num_bytes + sum(layer.num_bytes for layer in self._layers)

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        """Write the step's keys and values into `kv`, one per layer, and return float32 logits [R, V] of the sampled rows.

        The next step may overwrite the logits. Raises StepError for a position beyond the model's maximum.
        """
        longest = max(batch.context_lens)
        if longest > self.config.max_position:
            # Kernels read a position's rotation from a table, and not all of them check its end.
            raise StepError(f"a sequence has {longest} tokens, but the model's maximum is {self.config.max_position}")
        if longest > self._rotations.num_positions:
            self._make_positions(next_length(longest, self.config.max_position))
        return self._prepared(batch.to(self._kernels.device), kv)

    def _forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        kernels, config = self._kernels, self.config
        x_TD = kernels.embed(self._embedding, batch.token_ids_T)
        if config.embedding_scale != 1.0:
            x_TD = kernels.scale(x_TD, config.embedding_scale)
        rotations = self._rotations.of_layers(kernels, config, batch.positions_T)
        for layer, rotation, layer_kv in zip(self._layers, rotations, kv, strict=True):
            x_TD = layer.forward(x_TD, rotation, layer_kv, batch)
        x_RD = kernels.gather_rows(x_TD, batch.sample_rows_R)
        logits_RV = kernels.linear(kernels.rms_norm(x_RD, self._final_norm_D, config.rms_norm_eps), self._output)
        if config.logit_scale != 1.0:
            logits_RV = kernels.scale(logits_RV, config.logit_scale)
        return logits_RV if config.final_logit_cap is None else kernels.cap(logits_RV, config.final_logit_cap)

    def _make_positions(self, num_positions: int) -> None:
        """Make longer rotation tables, with the same rows for the positions that the old ones have.

        The prepared function is made again, because it holds the addresses of the old tables.
        """
        self._rotations = Rotations.make(self.config, num_positions, self._kernels.device, self._rotations)
        self._prepared = self._kernels.prepare(self._forward)

    def _take_output(self, weights: Weights) -> LinearWeight:
        if not self.config.tie_word_embeddings:
            packed = self._kernels.pack_linear(self._take_matrix(weights, "output.weight"))
            weights.release("output.weight")
            return packed
        weights.drop("output.weight")
        return self._kernels.tied_output(self._embedding)

    def _take_matrix(self, weights: Weights, name: str) -> StoredWeight:
        return weights.take_matrix(name, (self.config.vocab_size, self.config.hidden_size))
