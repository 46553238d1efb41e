"""The source of one layer's weights: its tensors of the checkpoint, converted into the kernels' form."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pagoda.models.model import ModelConfig
from worker.kernels.interface import Kernels, LinearWeight
from worker.weights.checkpoint import Weights
from worker.weights.linear_format import StoredWeight


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSource:
    config: ModelConfig
    kernels: Kernels
    weights: Weights
    index: int

    def take_linear(self, num_outs: Mapping[str, int], num_in: int, *, needs_bias: bool = False) -> LinearWeight:
        """Return one linear, stacked from those that read the same input: `num_outs` maps their names to numbers of outputs.

        A bias is used if the checkpoint has one, even if it is not needed.
        """
        matrices = [self.take_matrix(f"{name}.weight", (num_out, num_in)) for name, num_out in num_outs.items()]
        take_bias = self._take if needs_bias else self._take_optional
        biases = [take_bias(f"{name}.bias", (num_out,)) for name, num_out in num_outs.items()]
        filled = [
            torch.zeros(num_out, device=self.kernels.device) if bias is None else bias
            for bias, num_out in zip(biases, num_outs.values(), strict=True)
        ]
        has_bias = any(bias is not None for bias in biases)
        packed = self.kernels.pack_linear(matrices, torch.cat(filled) if has_bias else None)
        for name in num_outs:
            self.release(f"{name}.weight")
        return packed

    def has(self, name: str) -> bool:
        """Return True if the layer has a tensor of this name that was not taken yet."""
        return self.weights.has(f"layers.{self.index}.{name}")

    def take_matrix(self, name: str, shape: tuple[int, int]) -> StoredWeight:
        """Return a matrix as the file stores it. Call `release` after it was packed."""
        return self.weights.take_matrix(f"layers.{self.index}.{name}", shape)

    def take_stack(self, name: str, shape: tuple[int, int, int]) -> StoredWeight:
        """Return matrices of one shape, one below the other, as `take_matrix` does."""
        return self.weights.take_stack(f"layers.{self.index}.{name}", shape)

    def take_row(self, name: str, size: int) -> torch.Tensor:
        """Return a matrix of one row, which a file may hold as a vector."""
        return self.weights.take_row(f"layers.{self.index}.{name}", size)

    def release(self, name: str) -> None:
        self.weights.release(f"layers.{self.index}.{name}")

    def take_norm(self, name: str, size: int | None = None) -> torch.Tensor:
        """Return the weight of a norm over `size` elements, or over the hidden size if `size` is None."""
        weight = self._take(f"{name}.weight", (size or self.config.hidden_size,))
        return weight + self.config.norm_weight_offset

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return self.weights.take(f"layers.{self.index}.{name}", shape)

    def _take_optional(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        return self.weights.take_optional(f"layers.{self.index}.{name}", shape)
