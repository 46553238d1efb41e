"""The tensors of a Hugging Face directory: one safetensors file, or several named by an index. Pickle is never opened."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from worker.weights.checkpoint import WeightsError
from worker.weights.name_map import SAFETENSORS_NAMES, map_names

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}


class SafetensorsCheckpoint:
    def __init__(self, directory: Path) -> None:
        self._files = [_open(path) for path in _find_files(directory)]
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.names, self.unknown = map_names(list(self._file_of), SAFETENSORS_NAMES)

    def read(self, name: str) -> torch.Tensor:
        spelled = self.names[name]
        tensor: torch.Tensor = self._file_of[spelled].get_tensor(spelled)
        return tensor.float()

    def close(self) -> None:
        self._file_of.clear()
        self._files.clear()


def _find_files(directory: Path) -> list[Path]:
    if (directory / INDEX_FILE).is_file():
        return _files_in_index(directory)
    if (directory / SINGLE_FILE).is_file():
        return [directory / SINGLE_FILE]
    if any(path.suffix in PICKLE_SUFFIXES for path in directory.iterdir()):
        raise WeightsError(
            f"{directory} has its weights as pickle only, which can run code and is never opened; "
            "convert them to safetensors"
        )
    raise WeightsError(f"{directory} has neither {SINGLE_FILE} nor {INDEX_FILE}")


def _files_in_index(directory: Path) -> list[Path]:
    path = directory / INDEX_FILE
    try:
        names = sorted(set(json.loads(path.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not an index of safetensors files: {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsError(f"{path} names {name!r}, which is no safetensors file beside it")
        if not (directory / name).is_file():
            raise WeightsError(f"{path} names {name!r}, which is missing")
    return [directory / name for name in names]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
