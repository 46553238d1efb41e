"""The tensors of a Hugging Face directory: one safetensors file, or several that an index names."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from pagoda.models.formats.mapped_file import forget, map_file
from pagoda.models.formats.quantization.config import read_quantization
from pagoda.models.formats.quantization.linears import QuantizedLinear, join_tensors
from pagoda.models.formats.safetensors_file import read_all_tensors
from pagoda.models.formats.tensor_names import map_safetensors_names
from pagoda.models.model import ModelConfig, ModelFormat
from worker.weights.checkpoint import WeightsError
from worker.weights.linear_format import StoredWeight, stored
from worker.weights.quantized.stored_linear import stored_linear
from worker.weights.row_order import row_order

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsCheckpoint:
    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._config = config
        self._tensors = read_all_tensors(directory)
        joined = join_tensors(self._tensors, read_quantization(directory))
        self._linears = joined.linears
        self._mapped = {path: map_file(path) for path in {tensor.path for tensor in self._tensors.values()}}
        self.names, self.unknown = map_safetensors_names([*joined.plain, *joined.linears], config)

    def read(self, name: str) -> torch.Tensor:
        tensor = self._view(self.names[name]).to(torch.float32, copy=True)
        self.forget(name)
        order = row_order(self._config, ModelFormat.SAFETENSORS, name, len(tensor)) if tensor.dim() else None
        return tensor if order is None else tensor[order]

    def read_matrix(self, name: str) -> StoredWeight:
        spelled = self.names[name]
        if spelled in self._linears:
            return self._read_quantized(name, self._linears[spelled])
        tensor = self._view(spelled)
        if tensor.dim() != 2:
            raise WeightsError(f"{spelled!r} has shape {list(tensor.shape)}, but the model needs a matrix")
        order = row_order(self._config, ModelFormat.SAFETENSORS, name, len(tensor))
        return replace(stored(tensor), row_order_O=order, forget=partial(self._forget_rows, spelled))

    def _forget_rows(self, spelled: str, first: int, end: int) -> None:
        tensor = self._tensors[spelled]
        row_bytes = tensor.num_bytes // tensor.shape[0]
        forget(self._mapped[tensor.path], tensor.offset + first * row_bytes, (end - first) * row_bytes)

    def num_bytes(self, name: str) -> int:
        return sum(self._tensors[part].num_bytes for part in self._parts(name).values())

    def read_stack(self, name: str) -> tuple[StoredWeight, int]:
        tensor = self._view(self.names[name])
        if tensor.dim() != 3:
            raise WeightsError(
                f"{self.names[name]!r} has shape {list(tensor.shape)}, but the model needs a stack of matrices"
            )
        return stored(tensor.flatten(0, 1)), len(tensor)

    def forget(self, name: str) -> None:
        for part in self._parts(name).values():
            tensor = self._tensors[part]
            forget(self._mapped[tensor.path], tensor.offset, tensor.num_bytes)

    def close(self) -> None:
        for data in self._mapped.values():
            data.release()

    def _read_quantized(self, name: str, linear: QuantizedLinear) -> StoredWeight:
        parts = {part: self._view(spelled) for part, spelled in linear.parts.items()}
        order = row_order(self._config, ModelFormat.SAFETENSORS, name, linear.shape[0])
        try:
            return stored_linear(linear, parts, order)
        except WeightsError as error:
            raise WeightsError(f"{self.names[name]!r}: {error}") from None

    def _parts(self, name: str) -> Mapping[str, str]:
        """Return the names of the checkpoint's tensors that make up a weight."""
        spelled = self.names[name]
        return self._linears[spelled].parts if spelled in self._linears else {"weight": spelled}

    def _view(self, spelled: str) -> torch.Tensor:
        """Return the tensor as a view of the mapped file."""
        tensor = self._tensors[spelled]
        data = self._mapped[tensor.path][tensor.offset : tensor.offset + tensor.num_bytes]
        if tensor.num_bytes == 0:
            return torch.empty(tensor.shape)
        dtype = DTYPES[tensor.dtype]
        # The format aligns no tensor.
        aligned = data if tensor.offset % dtype.itemsize == 0 else bytearray(data)
        return torch.frombuffer(aligned, dtype=dtype).view(tensor.shape)
