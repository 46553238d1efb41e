"""Qwen 2, 2.5 and 3."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import (
    ATTENTION_BIAS,
    Family,
    Fields,
    GGUFFamily,
    plain_gguf,
    refuse_caps,
    window_of_types,
)
from pagoda.models.formats.families.layer_tensors import LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig

_QWEN2 = {
    **LLAMA,
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}


def _qwen2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    if not values.flag(content, "use_sliding_window"):
        return {}
    first = 0 if content["max_window_layers"] == 0 else values.count(content, "max_window_layers")
    layers = tuple(layer >= first for layer in range(config.num_layers))
    return window_of_types(config, content, layers, config.max_position)


def _qwen3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _qwen2(config, content) | {"qk_norm": True}


def _gguf_qwen3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return {"qk_norm": True}


HF_FAMILIES: Mapping[str, Family] = {
    "Qwen2ForCausalLM": Family(architecture="qwen2", fields=_qwen2, defaults=_QWEN2, biases=frozenset("qkv")),
    "Qwen3ForCausalLM": Family(
        architecture="qwen3", fields=_qwen3, defaults={**_QWEN2, "head_dim": 128}, bias_settings=ATTENTION_BIAS
    ),
}
GGUF_FAMILIES = {"qwen2": GGUFFamily(fields=plain_gguf), "qwen3": GGUFFamily(fields=_gguf_qwen3)}
TENSORS = {"qwen2": LayerTensors(biases=frozenset("qkv")), "qwen3": LayerTensors()}
