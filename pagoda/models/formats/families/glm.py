"""GLM-4: half of each head is rotated, in pairs of neighbours. The newer models have norms after attention and the MLP, too."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.families.family import Family, Fields, GGUFFamily, refuse_caps, rotary_size
from pagoda.models.formats.families.layer_tensors import BOTH_FORMATS, POST_NORMS, PRE_NORMS, LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig

_GLM = {
    **LLAMA,
    "vocab_size": 151_552,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1.5625e-7,
    "attention_bias": True,
    "partial_rotary_factor": 0.5,
}
_BIASES = {"attention_bias": frozenset("qkv")}


def _glm(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {"rotary_size": rotary_size(config, content, share=0.5), "has_joined_gate_up": True}


def _gguf(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    if metadata.get(f"{config.architecture}.rope.dimension_sections"):
        raise ModelFormatError(
            "the rotation of images (rope.dimension_sections) is not supported; use a file of the text model"
        )
    return {"has_joined_gate_up": True}


HF_FAMILIES: Mapping[str, Family] = {
    "GlmForCausalLM": Family(architecture="chatglm", fields=_glm, defaults=_GLM, bias_settings=_BIASES),
    "Glm4ForCausalLM": Family(architecture="glm4", fields=_glm, defaults=_GLM, bias_settings=_BIASES),
}
GGUF_FAMILIES = {"chatglm": GGUFFamily(fields=_gguf), "glm4": GGUFFamily(fields=_gguf)}
_NAMES = {"mlp.gate_up_proj": "gate_up"}
TENSORS = {
    "chatglm": LayerTensors(interleaved=BOTH_FORMATS, gguf={"ffn_up": "gate_up"}, safetensors=_NAMES),
    "glm4": LayerTensors(
        norms=(*PRE_NORMS, *POST_NORMS),
        interleaved=BOTH_FORMATS,
        gguf={"ffn_up": "gate_up"},
        safetensors={
            **_NAMES,
            "post_self_attn_layernorm": "after_attention_norm",
            "post_mlp_layernorm": "after_mlp_norm",
        },
    ),
}
