"""Describes the model in a GGUF file or a safetensors directory as a `Model`."""

from dataclasses import replace
from pathlib import Path

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import gguf_config, hf_config
from pagoda.models.formats.end_tokens import inside_vocabulary, read_checkpoint_end_tokens
from pagoda.models.formats.gguf_file import GGUFError, GGUFFile
from pagoda.models.formats.gguf_parts import part_files
from pagoda.models.formats.gguf_tokens import read_tokens
from pagoda.models.formats.quantization.config import SEPARATE_FILES
from pagoda.models.formats.quantization.linears import read_checkpoint_tensors
from pagoda.models.formats.recommended import read_generation_config, read_gguf_sampling
from pagoda.models.formats.rope_scaling import check_rope
from pagoda.models.formats.safetensors_file import weight_files
from pagoda.models.formats.text_part import text_tensor
from pagoda.models.model import Model, ModelConfig, ModelFormat

CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    *SEPARATE_FILES,
)
"""Files of a safetensors checkpoint besides its weights. A change of any of them makes another model."""

DESCRIBING_SUFFIXES = (".json", ".jinja", ".model", ".txt")
"""Endings of the files of a checkpoint besides its weights: configuration, tokenizer, chat template, and the weights' index."""
MAX_HEAD_SIZE = 1024
"""Largest supported head size, twice that of any model of the supported families."""


def model_files(path: Path) -> list[Path]:
    """Return the files that make the model at this path what it is. Raises ModelFormatError if weights are missing."""
    if not path.is_dir():
        return part_files(path)
    described = [path / name for name in CHECKPOINT_FILES if (path / name).exists()]
    return described + weight_files(path)


def files_to_copy(path: Path) -> list[Path]:
    """Return the files that a copy of the model needs: its weights and what describes them, but no other weights beside them."""
    if not path.is_dir():
        return part_files(path)
    others = (file for file in path.iterdir() if file.is_file() and file.suffix in DESCRIBING_SUFFIXES)
    return [*sorted(others), *weight_files(path)]


def describe(name: str, path: Path, digest: str, size_bytes: int) -> Model:
    """Return the model in a GGUF file or a safetensors directory. Raises ModelFormatError."""
    read = _read_gguf if path.is_file() else _read_checkpoint
    return _checked(read(name, path, digest, size_bytes))


def is_projector(path: Path) -> bool:
    """Return True for a GGUF file with only the part of a model that turns images into embeddings, which Ollama calls projector."""
    try:
        with GGUFFile(path) as file:
            return file.metadata.get("general.architecture") == "clip" or file.metadata.get("general.type") == "mmproj"
    except (GGUFError, OSError):
        return False


def _read_gguf(name: str, path: Path, digest: str, size_bytes: int) -> Model:
    try:
        with GGUFFile(path) as file:
            return Model(
                name=name,
                path=path,
                format=ModelFormat.GGUF,
                digest=digest,
                size_bytes=size_bytes,
                config=gguf_config.read_config(file),
                eos_token_ids=read_tokens(file.metadata).end_token_ids,
                quantization=gguf_config.quantization(file),
                num_parameters=gguf_config.num_parameters(file),
                recommended=read_gguf_sampling(file.metadata),
            )
    except GGUFError as error:
        raise ModelFormatError(str(error)) from None
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from None


def _read_checkpoint(name: str, path: Path, digest: str, size_bytes: int) -> Model:
    config = hf_config.read_config(path)
    tensors = read_checkpoint_tensors(path)
    if config.is_text_part:
        tensors = tensors.only(lambda name: text_tensor(name) is not None)
        # The embedding also computes the output if there is no tensor for that, whatever the configuration states.
        has_output = any(text_tensor(name) == "lm_head.weight" for name in (*tensors.plain, *tensors.linears))
        config = replace(config, tie_word_embeddings=not has_output)
    if not tensors.plain:
        raise ModelFormatError(f"{path} has no tensors")
    if tensors.quantization and tensors.linears:
        quantization = tensors.quantization.label
    else:
        quantization = max(tensors.plain.values(), key=lambda tensor: tensor.num_parameters).dtype
    return Model(
        name=name,
        path=path,
        format=ModelFormat.SAFETENSORS,
        digest=digest,
        size_bytes=size_bytes,
        config=config,
        eos_token_ids=read_checkpoint_end_tokens(path),
        quantization=quantization,
        num_parameters=tensors.num_parameters,
        recommended=read_generation_config(path),
    )


def _checked(model: Model) -> Model:
    """Return the model after checking that its hyperparameters are consistent. Raises ModelFormatError."""
    config = model.config
    if config.num_heads % config.num_kv_heads or config.head_size % 2:
        raise ModelFormatError(
            f"{model.path}: {config.num_heads} heads of size {config.head_size} cannot share {config.num_kv_heads} KV heads"
        )
    if config.head_size > MAX_HEAD_SIZE:
        raise ModelFormatError(
            f"{model.path}: heads must have a size of at most {MAX_HEAD_SIZE} (got {config.head_size})"
        )
    try:
        check_rope(config)
    except ModelFormatError as error:
        raise ModelFormatError(f"{model.path}: {error}") from None
    if num_layer_parameters(config) * config.num_layers > model.num_parameters:
        raise ModelFormatError(f"{model.path}: the metadata describes a larger model than the tensors hold")
    return replace(model, eos_token_ids=inside_vocabulary(model.eos_token_ids, config.vocab_size, model.path))


def num_layer_parameters(config: ModelConfig) -> int:
    """Return how many parameters the matrices of one layer have at least. It bounds what a file can make us allocate."""
    attention = 2 * (config.num_heads + config.num_kv_heads) * config.head_size
    experts = config.experts
    sizes = [] if experts is None else [experts.num_experts * experts.intermediate_size]
    if experts is None or experts.layer_has_experts:
        sizes.append(config.intermediate_size)
    return config.hidden_size * (attention + 3 * min(sizes))
