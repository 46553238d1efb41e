"""Reads a model's hyperparameters from a Hugging Face checkpoint's config.json.

The files in families/ read what is specific to a family.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import Family
from pagoda.models.formats.families.missing import unsupported
from pagoda.models.formats.families.tables import HF_FAMILIES
from pagoda.models.formats.hf_rope import read_rope
from pagoda.models.formats.quantization.config import quantization_of
from pagoda.models.formats.rope_scaling import extended_max_position
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.formats.text_part import WRAPPERS, is_wrapper, text_content
from pagoda.models.model import ModelConfig

UNUSUAL_NUMBERS: Mapping[str, Any] = {
    "partial_rotary_factor": 1.0,
    "attention_multiplier": None,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "clip_qkv": None,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_qk_norm": False,
    "num_local_experts": None,
    "num_experts": None,
}
"""Keys that change the results of some of transformers' classes, with their neutral values. 0 always means "not used"."""


def read_config(directory: Path) -> ModelConfig:
    path = directory / "config.json"
    if not path.exists():
        raise ModelFormatError(f"{directory} has no config.json")
    whole = read_json(path)
    content = text_content(whole)
    family = _family(content)
    config = {**family.defaults, **content}
    for key, usual in UNUSUAL_NUMBERS.items():
        if key not in family.defaults:
            values.require(config, key, usual, unused=0)
    values.require(config, "hidden_act", family.hidden_act, unused=family.legacy_hidden_act)
    values.require(config, "hidden_activation", family.hidden_act)
    quantization_of(config)  # Raises an error for a method that is not supported.
    hidden_size = values.count(config, "hidden_size")
    num_heads = values.count(config, "num_attention_heads")
    max_position = values.count(config, "max_position_embeddings")
    rope_theta, rope_scaling = read_rope(config, max_position)
    described = ModelConfig(
        architecture=family.architecture,
        num_layers=values.num_layers(config, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=values.count(config, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=values.count(config, "num_key_value_heads", num_heads),
        head_size=values.count(config, "head_dim", hidden_size // num_heads),
        vocab_size=values.count(config, "vocab_size"),
        max_position=min(extended_max_position(max_position, rope_scaling), values.MAX_POSITION),
        rms_norm_eps=values.number(config, "rms_norm_eps"),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tie_word_embeddings=values.flag(config, "tie_word_embeddings"),
    )
    return replace(described, **family.fields(described, config), is_text_part=is_wrapper(whole))


def read_biases(directory: Path) -> frozenset[str]:
    """Return Pagoda's names of the linear layers that have a bias in transformers' class."""
    content = text_content(read_json(directory / "config.json"))
    family = _family(content)
    config = {**family.defaults, **content}
    return family.biases.union(*(linears for key, linears in family.bias_settings.items() if values.flag(config, key)))


def _family(config: Mapping[str, Any]) -> Family:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in HF_FAMILIES:
        raise unsupported(name, "for Hugging Face", [*HF_FAMILIES, *WRAPPERS])
    return HF_FAMILIES[name]
