"""Phi 3."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import (
    Family,
    Fields,
    GGUFFamily,
    refuse_caps,
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
    parameters = content.get("rope_parameters")
    source = parameters if isinstance(parameters, dict) and "partial_rotary_factor" in parameters else content
    share = values.number(source, "partial_rotary_factor", 1.0)
    if share > 1 or (share < 1 and int(config.head_size * share) % 2):
        raise ModelFormatError(
            f"partial_rotary_factor must be at most 1 and rotate an even number of elements (got {share!r})"
        )
    rotary_size = None if share == 1 else int(config.head_size * share)
    return window_everywhere(config, content) | {"rotary_size": rotary_size, "has_joined_qkv": True}


def _gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return windowed(config, metadata, [True] * config.num_layers)


HF_FAMILIES: Mapping[str, Family] = {
    "Phi3ForCausalLM": Family(architecture="phi3", fields=_phi3, defaults=_PHI3),
}
GGUF_FAMILIES = {"phi3": GGUFFamily(fields=_gguf)}
TENSORS = {
    "phi3": LayerTensors(
        has_joined_gate_up=True,
        gguf={"ffn_up": "gate_up"},
        safetensors={"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": "gate_up"},
    )
}
