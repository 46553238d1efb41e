"""Phi 3."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.formats.families.family import (
    Family,
    Fields,
    GGUFFamily,
    refuse_caps,
    rotary_size,
    window_everywhere,
    windowed,
)
from pagoda.models.formats.families.layer_tensors import LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig

_PHI3 = {
    **LLAMA,
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 1.0,
}


def _phi3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {
        **window_everywhere(config, content),
        "rotary_size": rotary_size(config, content, share=1.0),
        "has_joined_qkv": True,
        "has_joined_gate_up": True,
    }


def _gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return windowed(config, metadata, [True] * config.num_layers) | {"has_joined_gate_up": True}


HF_FAMILIES: Mapping[str, Family] = {
    "Phi3ForCausalLM": Family(architecture="phi3", fields=_phi3, defaults=_PHI3),
}
GGUF_FAMILIES = {"phi3": GGUFFamily(fields=_gguf)}
TENSORS = {
    "phi3": LayerTensors(
        gguf={"ffn_up": "gate_up"},
        safetensors={"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": "gate_up"},
    )
}
