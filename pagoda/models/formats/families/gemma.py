"""Gemma 1, 2 and 3.

Some differences are in no GGUF file and follow from the architecture's name, as in llama.cpp.
"""

from collections.abc import Mapping
from typing import Any

from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import (
    ATTENTION_BIAS,
    Family,
    Fields,
    GGUFFamily,
    all_but_every,
    refuse_caps,
    window_of_types,
    window_pattern,
    window_size,
    windowed,
)
from pagoda.models.formats.families.layer_tensors import POST_NORMS, PRE_NORMS, LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig, RopeScaling

GEMMA2_27B_LAYERS = 46
GEMMA3_27B_LAYERS = 62
GEMMA3_THETA, GEMMA3_LOCAL_THETA = 1_000_000.0, 10_000.0
GEMMA3_MULTIMODAL_FACTOR = 8.0
GEMMA2_WINDOW, GEMMA2_ATTENTION_CAP, GEMMA2_FINAL_CAP = 4096, 50.0, 30.0
"""Defaults for Gemma 2 files, as in llama.cpp and transformers."""

_GEMMA1 = {
    **LLAMA,
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
_GEMMA2 = {
    **_GEMMA1,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3 = {
    **_GEMMA2,
    "vocab_size": 262_208,
    "max_position_embeddings": 131_072,
    "rope_theta": 1_000_000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}


def _gemma1(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    values.require(content, "use_bidirectional_attention", False)
    return {"activation": "gelu_tanh", "embedding_scale": config.hidden_size**0.5, "norm_weight_offset": 1.0}


def _gemma2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _gemma(config, content, period=2, max_position=config.max_position)


def _gemma3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    period = values.count(content, "_sliding_window_pattern", values.count(content, "sliding_window_pattern", 6))
    # Layers with a window have another rotary base, so they must be known even if the window is never full.
    return _gemma(config, content, period=period, max_position=None) | {
        "qk_norm": True,
        "rope_theta_local": _local_theta(content),
    }


def _gemma(config: ModelConfig, content: Mapping[str, Any], *, period: int, max_position: int | None) -> Fields:
    values.require(content, "use_bidirectional_attention", False)
    layers = all_but_every(period, config.num_layers)
    return window_of_types(config, content, layers, max_position) | {
        "activation": "gelu_tanh",
        "embedding_scale": config.hidden_size**0.5,
        "norm_weight_offset": 1.0,
        "query_scale": values.number(content, "query_pre_attn_scalar") ** -0.5,
        "attention_logit_cap": values.optional_number(content, "attn_logit_softcapping"),
        "final_logit_cap": values.optional_number(content, "final_logit_softcapping"),
    }


def _local_theta(content: Mapping[str, Any]) -> float:
    """Return the rotary base of local layers, which are never scaled.

    Older files have `rope_local_base_freq`; newer ones have rope parameters per layer type.
    """
    parameters = content.get("rope_parameters")
    local = parameters.get("sliding_attention") if isinstance(parameters, dict) else None
    if not isinstance(local, dict):
        return values.number(content, "rope_local_base_freq", GEMMA3_LOCAL_THETA)
    values.require(local, "rope_type", "default")
    return values.number(local, "rope_theta", GEMMA3_LOCAL_THETA)


def _gguf_gemma1(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return {"activation": "gelu_tanh", "embedding_scale": config.hidden_size**0.5}


def _gguf_gemma2(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    metadata = {
        "gemma2.attention.sliding_window": GEMMA2_WINDOW,
        "gemma2.attn_logit_softcapping": GEMMA2_ATTENTION_CAP,
        "gemma2.final_logit_softcapping": GEMMA2_FINAL_CAP,
        **metadata,
    }
    return {
        **_gguf_gemma(config, metadata, large=config.num_layers == GEMMA2_27B_LAYERS),
        **windowed(config, metadata, all_but_every(2, config.num_layers)),
    }


def _gguf_gemma3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    metadata = _without_ollamas_keys(metadata)
    return {
        **_gguf_gemma(config, metadata, large=config.num_layers == GEMMA3_27B_LAYERS),
        # Layers with a window have another rotary base, so they must be known even if the window is never full.
        **values.window(window_size(config, metadata), None, window_pattern(config, metadata, 6)),
        "qk_norm": True,
        "rope_theta": values.number(metadata, "gemma3.rope.freq_base", GEMMA3_THETA),
        "rope_theta_local": values.number(metadata, "gemma3.rope.freq_base_swa", GEMMA3_LOCAL_THETA),
        **_scaling_of_multimodal(config, metadata),
    }


def _scaling_of_multimodal(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    """Return the rope scaling of the models with a vision part, which Ollama's files do not state."""
    if not config.is_text_part or any(f"gemma3.rope.{key}" in metadata for key in ("scaling.factor", "scaling.type")):
        return {}
    return {"rope_scaling": RopeScaling(rope_type="linear", factor=GEMMA3_MULTIMODAL_FACTOR)}


def _without_ollamas_keys(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata with llama.cpp's keys. Ollama's converter had others, and wrote a cap that the model does not have."""
    renamed = dict(metadata)
    for key, ours in (("rope.global.freq_base", "rope.freq_base"), ("rope.local.freq_base", "rope.freq_base_swa")):
        if f"gemma3.{key}" in metadata:
            renamed.setdefault(f"gemma3.{ours}", metadata[f"gemma3.{key}"])
    if "gemma3.rope.global.freq_base" in metadata:
        renamed.pop("gemma3.final_logit_softcapping", None)
    return renamed


def _gguf_gemma(config: ModelConfig, metadata: Mapping[str, Any], *, large: bool) -> Fields:
    """Return the fields of both families. The largest model of each scales queries by hidden_size / num_heads, not head_size."""
    return {
        "activation": "gelu_tanh",
        "embedding_scale": config.hidden_size**0.5,
        "query_scale": (config.hidden_size // config.num_heads) ** -0.5 if large else None,
        "attention_logit_cap": values.optional_number(metadata, f"{config.architecture}.attn_logit_softcapping"),
        "final_logit_cap": values.optional_number(metadata, f"{config.architecture}.final_logit_softcapping"),
    }


HF_FAMILIES: Mapping[str, Family] = {
    "GemmaForCausalLM": Family(
        architecture="gemma",
        fields=_gemma1,
        defaults=_GEMMA1,
        hidden_act="gelu_pytorch_tanh",
        legacy_hidden_act="gelu",
        bias_settings=ATTENTION_BIAS,
    ),
    "Gemma2ForCausalLM": Family(
        architecture="gemma2",
        fields=_gemma2,
        defaults=_GEMMA2,
        hidden_act="gelu_pytorch_tanh",
        bias_settings=ATTENTION_BIAS,
    ),
    "Gemma3ForCausalLM": Family(
        architecture="gemma3",
        fields=_gemma3,
        defaults=_GEMMA3,
        hidden_act="gelu_pytorch_tanh",
        bias_settings=ATTENTION_BIAS,
    ),
}
GGUF_FAMILIES = {
    "gemma": GGUFFamily(fields=_gguf_gemma1),
    "gemma2": GGUFFamily(fields=_gguf_gemma2),
    "gemma3": GGUFFamily(fields=_gguf_gemma3),
}
_SANDWICHED = LayerTensors(
    norms=(*PRE_NORMS, *POST_NORMS),
    safetensors={
        "post_attention_layernorm": "after_attention_norm",
        "pre_feedforward_layernorm": "mlp_norm",
        "post_feedforward_layernorm": "after_mlp_norm",
    },
)
TENSORS = {"gemma": LayerTensors(), "gemma2": _SANDWICHED, "gemma3": _SANDWICHED}
