"""A reader of the headers of a safetensors checkpoint's files.

It needs no library, so that any process can describe a model and refuse a damaged one early. Pickles are never opened.
"""

import json
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pagoda.models.errors import ModelFormatError

INDEX_NAME = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
DTYPE_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
MISTRAL_PREFIX, ADAPTER_PREFIX = "consolidated", "adapter_"
"""Beginnings of the names of weights that do not belong to a checkpoint, but may be beside it."""
# States of a training, which are pickled but no weights.
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsTensor:
    """The description of a tensor."""

    dtype: str
    """Type in the format's spelling: "BF16", "F16", "F32"."""
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Position of the data from the start of the file."""

    @property
    def num_bytes(self) -> int:
        return self.num_parameters * DTYPE_BYTES[self.dtype]

    @property
    def num_parameters(self) -> int:
        return prod(self.shape)


def weight_files(directory: Path) -> list[Path]:
    """Return the checkpoint's weight files: those that its index names, else model.safetensors, else all. Raises ModelFormatError.

    The choice is that of vLLM and of transformers, except that weights in Mistral's own format are never chosen.
    """
    index = directory / INDEX_NAME
    if index.exists():
        return _indexed_files(index)
    single = directory / "model.safetensors"
    if single.exists():
        return [single]
    others = (MISTRAL_PREFIX, ADAPTER_PREFIX)
    found = sorted(path for path in directory.glob("*.safetensors") if not path.name.startswith(others))
    if not found:
        raise ModelFormatError(f"{directory} {_why_no_weights(sorted(path.name for path in directory.iterdir()))}")
    return found


def _why_no_weights(names: Sequence[str]) -> str:
    """Return the end of a sentence that begins with the directory: why its files are no checkpoint."""
    safetensors = [name for name in names if name.endswith(".safetensors")]
    if adapters := [name for name in safetensors if name.startswith(ADAPTER_PREFIX)]:
        return f"is an adapter ({adapters[0]}); merge it into its base model first (peft: merge_and_unload)"
    if safetensors:
        return (
            f"has only weights in the Mistral format ({safetensors[0]}), which is not supported; "
            "use the checkpoint with config.json and model.safetensors"
        )
    if pickled := [name for name in names if name.endswith(PICKLED_SUFFIXES) and name not in _NOT_WEIGHTS]:
        return (
            f"has only pickled weights ({pickled[0]}), which can run code when opened; "
            "convert them to safetensors first (transformers: model.save_pretrained(directory))"
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return f"has no .safetensors file; to use a GGUF file, name the file itself, such as {gguf[0]}"
    return "has no .safetensors file"


def _indexed_files(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFormatError(f"{index} has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not (index.parent / name).is_file():
            raise ModelFormatError(f"{index} names the file {name!r}, which is not in its directory")
    return [index.parent / name for name in names]


def read_all_tensors(directory: Path) -> Mapping[str, SafetensorsTensor]:
    """Return the tensors of all weight files of a checkpoint. Raises ModelFormatError if a name occurs twice."""
    tensors: dict[str, SafetensorsTensor] = {}
    for path in weight_files(directory):
        in_file = read_tensors(path)
        for name in in_file.keys() & tensors.keys():
            raise ModelFormatError(f"{path} has the tensor {name!r}, which is also in another file of the checkpoint")
        tensors |= in_file
    return tensors


def read_tensors(path: Path) -> Mapping[str, SafetensorsTensor]:
    """Return the tensors in the header of one file, checked against the file's length. Raises ModelFormatError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_bytes = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise ModelFormatError(f"{path} is truncated or not a safetensors file")
        header = _parse_json(file.read(header_bytes), path)
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, 8 + header_bytes, size) for name, entry in header.items()}


def _tensor(path: Path, name: str, entry: object, data_start: int, size: int) -> SafetensorsTensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if all(
            isinstance(length, int) and length >= 0 for length in shape
        ):
            if not 0 <= start <= end <= size - data_start:
                raise ModelFormatError(f"{path} is truncated: the tensor {name!r} ends past the end of the file")
            if prod(shape) * _dtype_bytes(path, name, dtype) != end - start:
                raise ModelFormatError(
                    f"{path} is damaged: the size of the tensor {name!r} does not match {dtype} of shape {shape}"
                )
            return SafetensorsTensor(dtype=dtype, shape=tuple(shape), path=path, offset=data_start + start)
    raise ModelFormatError(f"{path} is damaged: its header does not describe the tensor {name!r}")


def _dtype_bytes(path: Path, name: str, dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise ModelFormatError(
            f"{path}: the tensor {name!r} has the unknown type {dtype!r} (known: {', '.join(DTYPE_BYTES)})"
        )
    return DTYPE_BYTES[dtype]


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file. Raises ModelFormatError for other content, and for special files such as pipes."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ModelFormatError(f"{path.name} is not a file")
    return _parse_json(path.read_bytes(), path)


def _parse_json(data: bytes, path: Path) -> dict[str, object]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ModelFormatError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} is damaged: it is not a JSON object")
    return content
