"""Estimates of the memory that a model takes when it is served, from the headers of its files.

The integer mode keeps a quantized matrix in the size that it has in the file, and rounds a float matrix to int8 with a scale for
32 weights. Embeddings of floats keep 16 bits. The other modes compute with floats.
"""

from math import prod

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.quantization.linears import read_checkpoint_tensors
from pagoda.models.formats.quantization.scheme import Layout
from pagoda.models.formats.safetensors_file import DTYPE_BYTES
from pagoda.models.formats.text_part import GGUF_OTHER_PARTS, text_tensor
from pagoda.models.model import Model, ModelConfig, ModelFormat

PACKED_FLOAT_BYTES = 8.5 / 8
"""Bytes per weight of a matrix of floats in the integer mode."""
EMBEDDING_BYTES = 2
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16", Layout.FLOAT8)
_EMBEDDINGS = ("token_embd.weight", "embed_tokens.weight")
_BYTES_PER_PARAMETER = {"float32": 4, "bfloat16": 2}
_Tensor = tuple[str, str, tuple[int, ...], int]
"""Name, type, shape and bytes in the file."""


def served_weights_bytes(model: Model, numerics: str | None = None) -> int:
    """Return about how much memory the model's weights take in a numerics mode. None is the integer mode.

    If the files can no longer be read, return their size; loading the model gives the reason.
    """
    if numerics in _BYTES_PER_PARAMETER:
        return model.num_parameters * _BYTES_PER_PARAMETER[numerics]
    try:
        tensors = _gguf_tensors(model) if model.format is ModelFormat.GGUF else _safetensors(model)
    except (OSError, ModelFormatError):
        return model.size_bytes
    ties_output = model.config.tie_word_embeddings
    return sum(_served_bytes(*tensor, ties_output=ties_output) for tensor in tensors)


def kv_bytes_per_token(config: ModelConfig, element_bytes: int = 2) -> int:
    """Return how much memory the keys and values of one token take, without scales."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_size * element_bytes


def _served_bytes(name: str, type_name: str, shape: tuple[int, ...], stored_bytes: int, *, ties_output: bool) -> int:
    if type_name not in _FLOAT_TYPES:
        return stored_bytes
    if len(shape) < 2:
        return prod(shape) * 4
    packed_bytes = int(prod(shape) * PACKED_FLOAT_BYTES)
    if not name.endswith(_EMBEDDINGS):
        return packed_bytes
    return prod(shape) * EMBEDDING_BYTES + (packed_bytes if ties_output else 0)


def _gguf_tensors(model: Model) -> list[_Tensor]:
    other = GGUF_OTHER_PARTS if model.config.is_text_part else ()
    with GGUFFile(model.path) as file:
        tensors = {name: each for name, each in file.tensors.items() if not name.startswith(other)}
        return [(name, each.ggml_type.name, each.shape, each.num_bytes) for name, each in tensors.items()]


def _safetensors(model: Model) -> list[_Tensor]:
    tensors = read_checkpoint_tensors(model.path)
    if model.config.is_text_part:
        tensors = tensors.only(lambda name: text_tensor(name) is not None)
    plain = [
        (name, each.dtype, each.shape, each.num_parameters * DTYPE_BYTES[each.dtype])
        for name, each in tensors.plain.items()
    ]
    return plain + [(name, each.scheme.layout, each.shape, each.num_bytes) for name, each in tensors.linears.items()]
