"""OLMo 2 and 3, and EXAONE 4: norms only after attention and after the MLP."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
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
)
from pagoda.models.formats.families.layer_tensors import POST_NORMS, LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig

WINDOW_PERIOD = 4
EXAONE4_WINDOW, EXAONE4_32B_LAYERS = 4096, 64
"""The window of EXAONE 4's largest model, as in llama.cpp; its first GGUF files do not name it."""

_OLMO2 = {**LLAMA, "vocab_size": 50_304, "rms_norm_eps": 1e-5}
_OLMO3 = {**_OLMO2, "rope_theta": 500_000.0, "sliding_window": 4096}
_EXAONE4 = {
    **LLAMA,
    "vocab_size": 102_400,
    "intermediate_size": 16_384,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}
_WIDE_NORMS: Fields = {"qk_norm": True, "qk_norm_spans_heads": True}


def _olmo2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _WIDE_NORMS


def _olmo3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    # Layers with a window are never scaled, so they must be known even if the window is never full.
    windows = window_of_types(config, content, all_but_every(WINDOW_PERIOD, config.num_layers), None)
    if windows:
        values.count(content, "sliding_window")
    return _WIDE_NORMS | windows | {"rope_theta_local": _local_theta(config, content)}


def _local_theta(config: ModelConfig, content: Mapping[str, Any]) -> float:
    """Return the rotary base of layers with a window. Older files have one base for all layers."""
    parameters = content.get("rope_parameters")
    local = parameters.get("sliding_attention") if isinstance(parameters, dict) else None
    if not isinstance(local, dict):
        return config.rope_theta
    values.require(local, "rope_type", "default")
    return values.number(local, "rope_theta", config.rope_theta)


def _gguf_olmo2(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    local_theta = values.number(metadata, "olmo2.rope.freq_base_swa", config.rope_theta)
    refuse_caps(config, {**metadata, "olmo2.rope.freq_base_swa": 0})
    size = window_size(config, metadata)
    if size is None:
        return _WIDE_NORMS
    windows = values.window(size, None, window_pattern(config, metadata, WINDOW_PERIOD))
    return _WIDE_NORMS | windows | {"rope_theta_local": local_theta}


def _exaone4(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    if not content["sliding_window"]:
        return _hybrid(config, {})  # The pattern has no meaning then, and may be 0.
    pattern = content["sliding_window_pattern"]
    if isinstance(pattern, str):
        if not pattern or not set(pattern) <= {"L", "G"}:
            raise ModelFormatError(f"sliding_window_pattern must be a period or letters L and G (got {pattern!r})")
        layers = tuple(pattern[layer % len(pattern)] == "L" for layer in range(config.num_layers))
    else:
        layers = all_but_every(values.count(content, "sliding_window_pattern", 1), config.num_layers)
    return _hybrid(config, window_of_types(config, content, layers, None))


def _gguf_exaone4(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    size = window_size(config, metadata)
    if size is None and config.num_layers == EXAONE4_32B_LAYERS:
        size = EXAONE4_WINDOW
    return _hybrid(config, values.window(size, None, window_pattern(config, metadata, WINDOW_PERIOD)))


def _hybrid(config: ModelConfig, windows: Fields) -> Fields:
    """Return EXAONE 4's fields: if some layers have a window, the others do not rotate."""
    if not windows:
        return {"qk_norm": True}
    return windows | {"qk_norm": True, "layer_is_rotated": windows["layer_uses_sliding_window"]}


HF_FAMILIES: Mapping[str, Family] = {
    "Olmo2ForCausalLM": Family(architecture="olmo2", fields=_olmo2, defaults=_OLMO2, bias_settings=ATTENTION_BIAS),
    "Olmo3ForCausalLM": Family(architecture="olmo2", fields=_olmo3, defaults=_OLMO3, bias_settings=ATTENTION_BIAS),
    "Exaone4ForCausalLM": Family(architecture="exaone4", fields=_exaone4, defaults=_EXAONE4),
}
GGUF_FAMILIES = {
    "olmo2": GGUFFamily(fields=_gguf_olmo2),
    "exaone4": GGUFFamily(fields=_gguf_exaone4),
}
_POST_NORMED = LayerTensors(
    norms=POST_NORMS,
    safetensors={
        "post_attention_layernorm": "after_attention_norm",
        "post_feedforward_layernorm": "after_mlp_norm",
    },
)
TENSORS = {"olmo2": _POST_NORMED, "exaone4": _POST_NORMED}
