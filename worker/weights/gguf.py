"""The tensors of a GGUF file.

llama.cpp's converter reorders the query and key rows of the llama architecture, because ggml rotates neighbouring
elements; here that is undone.
"""

from pathlib import Path

import torch

from pagoda.models.gguf_file import GGUFFile
from pagoda.models.model import ModelConfig
from worker.weights.checkpoint import WeightsError
from worker.weights.dequantize import UnsupportedTypeError, dequantize
from worker.weights.name_map import gguf_names, map_names

ARCHITECTURES_WITH_INTERLEAVED_ROPE = {"llama"}


class GGUFCheckpoint:
    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._file = GGUFFile(path)
        self._config = config
        self.names, self.unknown = map_names(list(self._file.tensors), gguf_names(config.architecture))

    def read(self, name: str) -> torch.Tensor:
        spelled = self.names[name]
        tensor = self._file.tensors[spelled]
        try:
            flat = dequantize(self._file.tensor_data(spelled), tensor.ggml_type)
        except UnsupportedTypeError as error:
            raise WeightsError(f"{spelled!r}: {error}") from None
        self._file.forget(spelled)
        return self._undo_interleaving(name, flat.view(tensor.shape))

    def close(self) -> None:
        self._file.close()

    def _undo_interleaving(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        projection = name.split(".")[-2] if name.startswith("layers.") else None
        if self._config.architecture not in ARCHITECTURES_WITH_INTERLEAVED_ROPE or projection not in ("q", "k"):
            return tensor
        num_heads = self._config.num_heads if projection == "q" else self._config.num_kv_heads
        if tensor.shape[0] != num_heads * self._config.head_size:
            return tensor  # whoever takes it sees its shape, and says so
        pairs = tensor.view(num_heads, -1, 2, *tensor.shape[1:])
        return pairs.transpose(1, 2).reshape(tensor.shape)
