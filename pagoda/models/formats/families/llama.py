"""Llama, Mistral, Ministral 3 and Mixtral."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.expert_fields import EXPERT_KEYS, gguf_experts, hf_experts
from pagoda.models.formats.families.family import (
    LLAMA_BIASES,
    Family,
    Fields,
    GGUFFamily,
    plain,
    refuse_caps,
    window_everywhere,
    windowed,
)
from pagoda.models.formats.families.layer_tensors import LayerTensors
from pagoda.models.model import ModelConfig, ModelFormat

LLAMA: Mapping[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
}
_MISTRAL = {
    **LLAMA,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
_MINISTRAL3 = {
    **_MISTRAL,
    "vocab_size": 131_072,
    "num_hidden_layers": 34,
    "head_dim": 128,
    "max_position_embeddings": 262_144,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16_384,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}
_MIXTRAL = {
    **LLAMA,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "num_local_experts": 8,
    "num_experts": None,
    "num_experts_per_tok": 2,
}


def _ministral3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    parameters = content.get("rope_scaling") or content.get("rope_parameters") or {}
    growth = values.optional_number(parameters, "llama_4_scaling_beta")
    return window_everywhere(config, content) | _query_growth(config, growth)


def _query_growth(config: ModelConfig, growth: float | None) -> Fields:
    """Return the fields of queries that grow with their position, by the length of the original context."""
    if growth is None:
        return {}
    if config.rope_scaling is None or config.rotary_size is not None:
        raise ModelFormatError(
            "queries that grow with their position need a rope scaling with an original context, and heads that are rotated whole"
        )
    return {"query_growth": growth, "query_growth_length": config.rope_scaling.original_max_position}


def _gguf_mistral3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    growth = values.optional_number(metadata, f"{config.architecture}.attention.temperature_scale")
    return _gguf(config, metadata) | _query_growth(config, growth)


def _mixtral(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return window_everywhere(config, content) | hf_experts(content, "intermediate_size", renormalizes=True)


def _gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    """Return the fields of a llama, or of Mixtral, whose files have the same architecture and a number of experts."""
    refuse_caps(config, metadata)
    experts: Fields = {}
    if values.optional_count(metadata, "llama.expert_count"):
        experts = gguf_experts(config, metadata, renormalizes=True)
    return windowed(config, metadata, [True] * config.num_layers) | experts


HF_FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(architecture="llama", fields=plain, defaults=LLAMA, bias_settings=LLAMA_BIASES),
    "MistralForCausalLM": Family(architecture="llama", fields=window_everywhere, defaults=_MISTRAL),
    "Ministral3ForCausalLM": Family(architecture="mistral3", fields=_ministral3, defaults=_MINISTRAL3),
    "MixtralForCausalLM": Family(architecture="llama", fields=_mixtral, defaults=_MIXTRAL),
}
GGUF_FAMILIES = {
    "llama": GGUFFamily(fields=_gguf, numbers=EXPERT_KEYS),
    "mistral3": GGUFFamily(fields=_gguf_mistral3, numbers=frozenset(("attention.temperature_scale",))),
}
TENSORS = {
    "llama": LayerTensors(interleaved=frozenset((ModelFormat.GGUF,))),
    "mistral3": LayerTensors(interleaved=frozenset((ModelFormat.GGUF,))),
}
