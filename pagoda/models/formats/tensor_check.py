"""Checks that a model has the tensors that its family needs, from the headers of its files.

A model that passes can be loaded if there is enough memory. So an unusable model is refused when it is made, not when it is used.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.expert_tensors import layer_expert_shapes, matrix_sizes
from pagoda.models.formats.families.tables import TENSORS
from pagoda.models.formats.ggml_type import FLOAT_TYPES, READABLE_TYPES
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.gguf_tokens import token_metadata
from pagoda.models.formats.hf_config import read_biases
from pagoda.models.formats.quantization.linears import read_checkpoint_tensors
from pagoda.models.formats.quantization.scheme import Layout
from pagoda.models.formats.tensor_names import (
    NUMBER,
    fill,
    gguf_names,
    map_gguf_names,
    map_safetensors_names,
    safetensors_names,
)
from pagoda.models.model import Model, ModelConfig, ModelFormat

READABLE_DTYPES = ("F64", "F32", "F16", "BF16")
NOT_READ = ("rope_factors", "rope_factors_long", "rope_factors_short", "output.weight")
"""Tensors that a model may have besides those that it computes with; `output.weight` if the embedding takes its place."""


@dataclass(frozen=True, slots=True)
class _Stored:
    shape: tuple[int, ...]
    type_name: str
    is_readable: bool
    is_quantized_linear: bool = False
    """True if several tensors of a Hugging Face checkpoint make up the weight."""
    is_float: bool = True


def check_tensors(model: Model) -> None:
    """Raise ModelFormatError if a tensor is missing, unknown, or of a wrong shape or type. The message names it."""
    is_gguf = model.format is ModelFormat.GGUF
    stored = _gguf_tensors(model.path) if is_gguf else _safetensors(model.path)
    table = (gguf_names if is_gguf else safetensors_names)(model.config.architecture)
    known, unknown = (map_gguf_names if is_gguf else map_safetensors_names)(stored, model.config)
    spelled_of = {ours: spelled for spelled, ours in table.items()}
    expected = dict[str, tuple[int, ...]]()
    for name, wanted in _matrices_and_norms(model.config, known, model.format):
        if name not in known:  # Raised at once, because a damaged configuration may describe millions of tensors.
            raise ModelFormatError(f"{model.path}: the tensor {_spell(name, spelled_of)!r} is missing")
        expected[name] = wanted
    biases = dict(_biases(model.config))
    required = TENSORS[model.config.architecture].biases if is_gguf else read_biases(model.path)
    allowed = biases if is_gguf else {name: shape for name, shape in biases.items() if _linear_of(name) in required}
    # Programs that quantize may add a bias to each linear.
    quantized = {_linear_of(name) for name, spelled in known.items() if stored[spelled].is_quantized_linear}
    allowed |= {name: shape for name, shape in biases.items() if _linear_of(name) in quantized}
    for name in biases:
        if _linear_of(name) in required and name not in known:
            raise ModelFormatError(f"{model.path}: the tensor {_spell(name, spelled_of)!r} is missing")
    if model.config.tie_word_embeddings and "output" in quantized:
        raise ModelFormatError(
            f"{model.path}: {known['output.weight']!r} is quantized, but config.json has tie_word_embeddings, so that the "
            "embedding would take its place; set tie_word_embeddings to false"
        )
    for name, spelled in known.items():
        shape = (expected | allowed).get(name)
        if shape is None and name not in NOT_READ:
            unknown.append(spelled)
        elif shape is not None and stored[spelled].shape != shape:
            found = list(stored[spelled].shape)
            raise ModelFormatError(
                f"{model.path}: the tensor {spelled!r} must have the shape {list(shape)} (got {found})"
            )
        elif shape is not None and not stored[spelled].is_readable:
            types = ", ".join(sorted(each.name for each in READABLE_TYPES) if is_gguf else READABLE_DTYPES)
            raise ModelFormatError(
                f"{model.path}: the tensor {spelled!r} has the type {stored[spelled].type_name}, which is not supported "
                f"(supported: {types})"
            )
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ModelFormatError(
            f"{model.path}: the file has tensors that the model does not use: {', '.join(sorted(unknown)[:5])}{more}"
        )
    _check_kinds_of_experts(model.path, {name: stored[spelled] for name, spelled in known.items()})


def _check_kinds_of_experts(path: Path, stored: Mapping[str, _Stored]) -> None:
    """Raise ModelFormatError if some experts of a layer are floats and others integers: their inputs are rounded differently."""
    first = dict[tuple[str, str], _Stored]()
    for name, tensor in stored.items():
        layer, _, rest = name.partition(".experts.")
        expert, _, part = rest.partition(".")
        if expert.isdecimal() and (same := first.setdefault((layer, part), tensor)).is_float != tensor.is_float:
            raise ModelFormatError(
                f"{path}: some experts of {layer} are stored as {same.type_name}, others as {tensor.type_name}; "
                "all experts of a layer must be floats, or all integers"
            )


def _matrices_and_norms(
    config: ModelConfig, known: Container[str], checkpoint: ModelFormat
) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config.hidden_size
    yield "embedding.weight", (config.vocab_size, hidden)
    yield "final_norm.weight", (hidden,)
    if not config.tie_word_embeddings:
        yield "output.weight", (config.vocab_size, hidden)
    norms = dict.fromkeys(TENSORS[config.architecture].norms, hidden)
    if config.qk_norm:
        q_heads, k_heads = (config.num_heads, config.num_kv_heads) if config.qk_norm_spans_heads else (1, 1)
        norms |= {"q_norm": q_heads * config.head_size, "k_norm": k_heads * config.head_size}
    for layer in range(config.num_layers):
        experts = config.experts_of(layer)
        for name, shape in (_attention(config) if experts else _linears(config)).items():
            yield f"layers.{layer}.{name}.weight", shape
        if experts is not None:
            yield from layer_expert_shapes(config, experts, layer, known, checkpoint)
        for name, size in norms.items():
            yield f"layers.{layer}.{name}.weight", (size,)


def _biases(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in range(config.num_layers):
        linears = _attention(config) if config.experts_of(layer) else _linears(config)
        for name, (num_out, _) in linears.items():
            yield f"layers.{layer}.{name}.bias", (num_out,)


def _linears(config: ModelConfig) -> dict[str, tuple[int, int]]:
    inner = config.intermediate_size
    return _attention(config) | matrix_sizes(config.hidden_size, inner, config.has_joined_gate_up)


def _attention(config: ModelConfig) -> dict[str, tuple[int, int]]:
    hidden = config.hidden_size
    q_size, kv_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
    if config.has_joined_qkv:
        return {"qkv": (q_size + 2 * kv_size, hidden), "o": (hidden, q_size)}
    return {"q": (q_size, hidden), "k": (kv_size, hidden), "v": (kv_size, hidden), "o": (hidden, q_size)}


def _linear_of(name: str) -> str:
    return name.split(".")[-2]


def _spell(name: str, spelled_of: Mapping[str, str]) -> str:
    """Return the checkpoint's name of a tensor for Pagoda's name."""
    if not name.startswith("layers."):
        return spelled_of.get(name, name)
    numbers = dict(zip(("{i}", "{e}"), NUMBER.findall(name), strict=False))
    pattern = name
    for place in numbers:
        pattern = NUMBER.sub(place, pattern, count=1)
    return fill(spelled_of.get(pattern, name), numbers)


def _gguf_tensors(path: Path) -> dict[str, _Stored]:
    with GGUFFile(path) as file:
        num_tokens = len(token_metadata(file).get("tokenizer.ggml.tokens", ()))
        num_rows = file.tensors["token_embd.weight"].shape[0]
        if num_tokens > num_rows:
            raise ModelFormatError(
                f"{path}: the vocabulary has {num_tokens} tokens, but there are {num_rows} embeddings"
            )
        return {
            name: _Stored(
                tensor.shape,
                tensor.ggml_type.name,
                tensor.ggml_type in READABLE_TYPES,
                is_float=tensor.ggml_type in FLOAT_TYPES,
            )
            for name, tensor in file.tensors.items()
        }


def _safetensors(directory: Path) -> dict[str, _Stored]:
    tensors = read_checkpoint_tensors(directory)
    plain = {
        name: _Stored(tensor.shape, tensor.dtype, tensor.dtype in READABLE_DTYPES)
        for name, tensor in tensors.plain.items()
    }
    return plain | {
        name: _Stored(
            each.shape,
            each.scheme.layout,
            is_readable=True,
            is_quantized_linear=True,
            is_float=each.scheme.layout is Layout.FLOAT8,
        )
        for name, each in tensors.linears.items()
    }
