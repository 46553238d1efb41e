"""Llama and Mistral."""

from collections.abc import Mapping
from typing import Any

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


def _gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return windowed(config, metadata, [True] * config.num_layers)


HF_FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(architecture="llama", fields=plain, defaults=LLAMA, bias_settings=LLAMA_BIASES),
    "MistralForCausalLM": Family(architecture="llama", fields=window_everywhere, defaults=_MISTRAL),
}
GGUF_FAMILIES = {"llama": GGUFFamily(fields=_gguf)}
TENSORS = {"llama": LayerTensors(interleaved=frozenset((ModelFormat.GGUF,)))}
