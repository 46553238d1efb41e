"""The tensors of a Hugging Face directory: one safetensors file, or several that an index names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pagoda.models.formats.safetensors_file import DTYPE_BYTES, read_all_tensors, weight_files
from pagoda.models.formats.tensor_names import map_safetensors_names
from pagoda.models.model import ModelConfig, ModelFormat
from worker.weights.checkpoint import WeightsError
from worker.weights.linear_format import StoredWeight, stored
from worker.weights.row_order import row_order


class SafetensorsCheckpoint:
    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._config = config
        self._path_of = {name: path for path in weight_files(directory) for name in _names(path)}
        self._tensors = read_all_tensors(directory)
        self.names, self.unknown = map_safetensors_names(self._path_of, config)

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor as float32. The file is opened for each tensor, since an open file keeps what was read in memory."""
        tensor = self._read(name).float()
        order = row_order(self._config, ModelFormat.SAFETENSORS, name, len(tensor)) if tensor.dim() else None
        return tensor if order is None else tensor[order]

    def read_matrix(self, name: str) -> StoredWeight:
        tensor = self._read(name)
        if tensor.dim() != 2:
            raise WeightsError(f"{self.names[name]!r} has shape {list(tensor.shape)}, but the model needs a matrix")
        order = row_order(self._config, ModelFormat.SAFETENSORS, name, len(tensor))
        return replace(stored(tensor), row_order_O=order)

    def num_bytes(self, name: str) -> int:
        tensor = self._tensors[self.names[name]]
        return tensor.num_parameters * DTYPE_BYTES[tensor.dtype]

    def forget(self, name: str) -> None:
        """Do nothing: what was read is a copy."""

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read(self, name: str) -> torch.Tensor:
        spelled = self.names[name]
        with _open(self._path_of[spelled]) as file:
            tensor: torch.Tensor = file.get_tensor(spelled)
        return tensor


def _names(path: Path) -> list[str]:
    with _open(path) as file:
        names: list[str] = file.keys()
    return names


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
