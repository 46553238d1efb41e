"""The tensors of a GGUF file."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.tensor_names import map_gguf_names
from pagoda.models.model import ModelConfig, ModelFormat
from worker.weights.checkpoint import WeightsError
from worker.weights.dequantize import UnsupportedTypeError, dequantize, stored_blocks
from worker.weights.linear_format import StoredWeight
from worker.weights.row_order import row_order


class GGUFCheckpoint:
    def __init__(self, path: Path, config: ModelConfig) -> None:
        self._file = GGUFFile(path)
        self._config = config
        self.names, self.unknown = map_gguf_names(self._file.tensors, config)

    def read(self, name: str) -> torch.Tensor:
        spelled = self.names[name]
        tensor = self._file.tensors[spelled]
        try:
            flat = dequantize(self._file.tensor_data(spelled), tensor.ggml_type)
        except UnsupportedTypeError as error:
            raise WeightsError(f"{spelled!r}: {error}") from None
        self._file.forget(spelled)
        values = flat.view(tensor.shape)
        order = row_order(self._config, ModelFormat.GGUF, name, len(values))
        return values if order is None else values[order]

    def read_matrix(self, name: str) -> StoredWeight:
        spelled = self.names[name]
        tensor = self._file.tensors[spelled]
        if len(tensor.shape) != 2:
            raise WeightsError(f"{spelled!r} has shape {list(tensor.shape)}, but the model needs a matrix")
        num_out, num_in = tensor.shape
        order = row_order(self._config, ModelFormat.GGUF, name, num_out)
        try:
            weight = stored_blocks(self._file.tensor_data(spelled), tensor.ggml_type, (num_out, num_in), order)
        except UnsupportedTypeError as error:
            raise WeightsError(f"{spelled!r}: {error}") from None
        return replace(weight, forget=partial(self._file.forget_rows, spelled))

    def num_bytes(self, name: str) -> int:
        return self._file.tensors[self.names[name]].num_bytes

    def read_stack(self, name: str) -> tuple[StoredWeight, int]:
        spelled = self.names[name]
        tensor = self._file.tensors[spelled]
        if len(tensor.shape) != 3:
            raise WeightsError(f"{spelled!r} has shape {list(tensor.shape)}, but the model needs a stack of matrices")
        number, num_out, num_in = tensor.shape
        try:
            data = self._file.tensor_data(spelled)
            return stored_blocks(data, tensor.ggml_type, (number * num_out, num_in)), number
        except UnsupportedTypeError as error:
            raise WeightsError(f"{spelled!r}: {error}") from None

    def forget(self, name: str) -> None:
        self._file.forget(self.names[name])

    def close(self) -> None:
        self._file.close()
