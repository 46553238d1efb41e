"""Reads a model's hyperparameters from a GGUF file's metadata.

The files in families/ read what is specific to a family, gguf_rope.py the scaling of the rotary frequencies.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.missing import unsupported
from pagoda.models.formats.families.tables import GGUF_FAMILIES
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.gguf_rope import FACTOR_TENSORS, read_rope_scaling
from pagoda.models.formats.rope_scaling import extended_max_position
from pagoda.models.formats.text_part import GGUF_OTHER_PARTS, GGUF_VISION_KEY
from pagoda.models.model import ModelConfig

UNUSUAL_NUMBERS: Mapping[str, float] = {
    "expert_count": 0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
    "router_logit_softcapping": 0,
    "nextn_predict_layers": 0,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.temperature_scale": 0,
    "attention.shared_kv_layers": 0,
    "attention.output_scale": 1.0,
    "attention.value_scale": 1.0,
    "attention.q_lora_rank": 0,
    "attention.kv_lora_rank": 0,
}
"""Keys (after the architecture's name) that change the results of other families, with their neutral values. 0 is "not used"."""
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    21: "Q2_K_S",
    25: "IQ4_NL",
    30: "IQ4_XS",
    32: "BF16",
}
"""llama.cpp's numbers for mixtures of types, with their usual names."""
WITH_VISION = {"qwen2vl": "qwen2", "qwen25vl": "qwen2", "qwen3vl": "qwen3"}
"""Architectures whose text part is another architecture. Without images, their three positions of a token are equal."""


def read_config(file: GGUFFile) -> ModelConfig:
    metadata = file.metadata
    named = metadata.get("general.architecture")
    architecture = WITH_VISION.get(named, named) if isinstance(named, str) else named
    if not isinstance(architecture, str) or architecture not in GGUF_FAMILIES:
        raise unsupported(named, "in GGUF", [*GGUF_FAMILIES, *WITH_VISION])
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelFormatError("the file has no two-dimensional tensor 'token_embd.weight'")
    prefix = f"{named}."
    hidden_size = values.count(metadata, f"{prefix}embedding_length")
    num_heads = values.uniform_count(metadata, f"{prefix}attention.head_count")
    head_size = values.count(metadata, f"{prefix}attention.key_length", hidden_size // num_heads)
    values.require(metadata, f"{prefix}attention.value_length", head_size)
    family = GGUF_FAMILIES[architecture]
    _refuse_other_numbers(metadata, prefix, head_size, family.numbers)
    rotary_size = _rotary_size(values.count(metadata, f"{prefix}rope.dimension_count", head_size), head_size)
    max_position = values.count(metadata, f"{prefix}context_length")
    rope_theta = values.number(metadata, f"{prefix}rope.freq_base", 10_000.0)
    rope_scaling = read_rope_scaling(file, prefix, rope_theta, rotary_size or head_size)
    config = ModelConfig(
        architecture=architecture,
        num_layers=values.num_layers(metadata, f"{prefix}block_count"),
        hidden_size=hidden_size,
        intermediate_size=values.uniform_count(metadata, f"{prefix}feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=values.uniform_count(metadata, f"{prefix}attention.head_count_kv", num_heads),
        head_size=head_size,
        vocab_size=embedding.shape[0],
        max_position=min(extended_max_position(max_position, rope_scaling), values.MAX_POSITION),
        rms_norm_eps=values.number(metadata, f"{prefix}attention.layer_norm_rms_epsilon"),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_word_embeddings="output.weight" not in file.tensors,
        rotary_size=rotary_size,
        has_joined_qkv="blk.0.attn_qkv.weight" in file.tensors,
        is_text_part=prefix + GGUF_VISION_KEY in metadata,
    )
    as_text = {f"{architecture}.{key[len(prefix) :]}": metadata[key] for key in metadata if key.startswith(prefix)}
    return replace(config, **family.fields(config, {**metadata, **as_text}))


def _refuse_other_numbers(metadata: Mapping[str, Any], prefix: str, head_size: int, computed: frozenset[str]) -> None:
    """Raise ModelFormatError for settings with which the family does not compute, unless they have the usual value."""
    for key in UNUSUAL_NUMBERS.keys() - computed:
        usual = UNUSUAL_NUMBERS[key]
        values.require(metadata, prefix + key, usual, unused=0)
    values.require(metadata, f"{prefix}attention.causal", True)
    values.require(metadata, f"{prefix}use_parallel_residual", False)
    for key in ("attention.key_length_swa", "attention.value_length_swa"):
        values.require(metadata, prefix + key, head_size)
    scale = values.optional_number(metadata, f"{prefix}attention.scale")
    if scale is not None and "attention.scale" not in computed and not _close(scale, head_size**-0.5):
        raise ModelFormatError(
            f"the model requires {prefix}attention.scale = {scale}; only 1 / sqrt({head_size}) is supported"
        )


def _rotary_size(rotary_size: int, head_size: int) -> int | None:
    if rotary_size > head_size or rotary_size % 2:
        raise ModelFormatError(
            f"rope.dimension_count must be even and at most the head size, {head_size} (got {rotary_size})"
        )
    return None if rotary_size == head_size else rotary_size


def quantization(file: GGUFFile) -> str:
    """Return the mixture of types that the file names, else the type of the most parameters."""
    file_type = file.metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    parameters: Counter[str] = Counter()
    for tensor in file.tensors.values():
        parameters[tensor.ggml_type.name] += math.prod(tensor.shape)
    return parameters.most_common(1)[0][0]


def num_parameters(file: GGUFFile) -> int:
    """Return the number of parameters, without those of other parts than the text."""
    names = (name for name in file.tensors if name not in FACTOR_TENSORS and not name.startswith(GGUF_OTHER_PARTS))
    return sum(math.prod(file.tensors[name].shape) for name in names)


def _close(left: float, right: float) -> bool:
    return math.isclose(left, right, rel_tol=1e-3)
