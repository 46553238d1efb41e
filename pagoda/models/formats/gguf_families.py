"""The differences between each family and a plain llama, read from a GGUF file's metadata. There is one function per architecture.

Some differences are in no file and follow from the architecture's name, as in llama.cpp. To add a family, write a function that
returns the fields of ModelConfig that are not the default, and add it to FAMILIES.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.model import ModelConfig

Fields = dict[str, Any]
GEMMA2_27B_LAYERS = 46
GEMMA3_27B_LAYERS = 62
GEMMA3_THETA, GEMMA3_LOCAL_THETA = 1_000_000.0, 10_000.0
GEMMA2_WINDOW, GEMMA2_ATTENTION_CAP, GEMMA2_FINAL_CAP = 4096, 50.0, 30.0
"""Defaults for Gemma 2 files, as in llama.cpp and transformers."""


def _llama(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    _refuse_caps(config, metadata)
    return _windowed(config, metadata, [True] * config.num_layers)


def _qwen2(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    _refuse_caps(config, metadata)
    return {}  # the tensors include its biases


def _qwen3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    _refuse_caps(config, metadata)
    return {"qk_norm": True}


def _phi3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    _refuse_caps(config, metadata)
    return _windowed(config, metadata, [True] * config.num_layers)


def _gemma2(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    metadata = {
        "gemma2.attention.sliding_window": GEMMA2_WINDOW,
        "gemma2.attn_logit_softcapping": GEMMA2_ATTENTION_CAP,
        "gemma2.final_logit_softcapping": GEMMA2_FINAL_CAP,
        **metadata,
    }
    return {
        **_gemma(config, metadata, large=config.num_layers == GEMMA2_27B_LAYERS),
        **_windowed(config, metadata, _all_but_every(2, config.num_layers)),
    }


def _gemma3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    metadata = _without_ollamas_keys(metadata)
    return {
        **_gemma(config, metadata, large=config.num_layers == GEMMA3_27B_LAYERS),
        # Layers with a window have another rotary base, so they must be known even if the window is never full.
        **values.window(_window_size(config, metadata), None, _gemma3_pattern(config, metadata)),
        "qk_norm": True,
        "rope_theta": values.number(metadata, "gemma3.rope.freq_base", GEMMA3_THETA),
        "rope_theta_local": values.number(metadata, "gemma3.rope.freq_base_swa", GEMMA3_LOCAL_THETA),
    }


def _without_ollamas_keys(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata with llama.cpp's keys. Ollama's converter had others, and wrote a cap that the model does not have."""
    renamed = dict(metadata)
    for key, ours in (("rope.global.freq_base", "rope.freq_base"), ("rope.local.freq_base", "rope.freq_base_swa")):
        if f"gemma3.{key}" in metadata:
            renamed.setdefault(f"gemma3.{ours}", metadata[f"gemma3.{key}"])
    if "gemma3.rope.global.freq_base" in metadata:
        renamed.pop("gemma3.final_logit_softcapping", None)
    return renamed


def _refuse_caps(config: ModelConfig, metadata: Mapping[str, Any]) -> None:
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        values.require(metadata, f"{config.architecture}.{key}", 0)
    values.require(metadata, f"{config.architecture}.rope.freq_base_swa", config.rope_theta, unused=0)


def _gemma(config: ModelConfig, metadata: Mapping[str, Any], *, large: bool) -> Fields:
    """Return the fields of both families. The largest model of each scales queries by hidden_size / num_heads, not head_size."""
    return {
        "activation": "gelu_tanh",
        "embedding_scale": config.hidden_size**0.5,
        "query_scale": (config.hidden_size // config.num_heads) ** -0.5 if large else None,
        "attention_logit_cap": values.optional_number(metadata, f"{config.architecture}.attn_logit_softcapping"),
        "final_logit_cap": values.optional_number(metadata, f"{config.architecture}.final_logit_softcapping"),
    }


def _gemma3_pattern(config: ModelConfig, metadata: Mapping[str, Any]) -> Iterable[bool]:
    """Return for each layer whether it has a window. The file has a flag per layer or a period; the default period is 6.

    With a period of n, every n-th layer has no window.
    """
    pattern = metadata.get("gemma3.attention.sliding_window_pattern", 6)
    if not isinstance(pattern, list):
        return _all_but_every(
            values.count({"sliding_window_pattern": pattern}, "sliding_window_pattern"), config.num_layers
        )
    if len(pattern) != config.num_layers:
        raise ModelFormatError(f"the sliding window pattern has {len(pattern)} entries for {config.num_layers} layers")
    return map(bool, pattern)


def _all_but_every(period: int, num_layers: int) -> Iterable[bool]:
    return ((layer + 1) % period != 0 for layer in range(num_layers))


def _windowed(config: ModelConfig, metadata: Mapping[str, Any], is_windowed: Iterable[bool]) -> Fields:
    return values.window(_window_size(config, metadata), config.max_position, is_windowed)


def _window_size(config: ModelConfig, metadata: Mapping[str, Any]) -> int | None:
    return values.optional_count(metadata, f"{config.architecture}.attention.sliding_window")


FAMILIES: Mapping[str, Callable[[ModelConfig, Mapping[str, Any]], Fields]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
}
