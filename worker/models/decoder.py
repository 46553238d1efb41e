"""What a model is to the engine: a step's tokens in, logits out."""

from collections.abc import Sequence
from typing import Protocol

import torch

from pagoda.models.model import ModelConfig
from worker.batch import StepBatch
from worker.kernels.interface import LayerKV


class DecoderModel(Protocol):
    config: ModelConfig

    @property
    def weights_bytes(self) -> int: ...

    def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
        """Write the step's keys and values into `kv`, one per layer, and return float32 logits [R, V] of the sampled rows."""
