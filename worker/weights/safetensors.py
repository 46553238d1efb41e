"""The tensors of a Hugging Face directory: one safetensors file, or several named by an index."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pagoda.models.model import ModelConfig
from pagoda.models.safetensors_file import weight_files
from worker.weights.checkpoint import WeightsError
from worker.weights.name_map import map_names, safetensors_names


class SafetensorsCheckpoint:
    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._files = [_open(path) for path in weight_files(directory)]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.names, self.unknown = map_names(list(self._file_of), safetensors_names(config.architecture))

    def read(self, name: str) -> torch.Tensor:
        spelled = self.names[name]
        tensor: torch.Tensor = self._file_of[spelled].get_tensor(spelled)
        return tensor.float()

    def close(self) -> None:
        self._file_of.clear()
        self._files.clear()


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
