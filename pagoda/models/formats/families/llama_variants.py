"""SmolLM 3, Granite, Seed-OSS, ERNIE 4.5 and HunYuan: llamas with a few other numbers."""

from collections.abc import Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.family import (
    ATTENTION_BIAS,
    LLAMA_BIASES,
    Family,
    Fields,
    GGUFFamily,
    all_but_every,
    plain,
    plain_gguf,
    refuse_caps,
    window_of_types,
)
from pagoda.models.formats.families.layer_tensors import BOTH_FORMATS, LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.model import ModelConfig, ModelFormat

SMOLLM3_PERIOD = 4
"""Period of the layers without rotation in GGUF files, which do not name it."""

_SMOLLM3 = {
    **LLAMA,
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "rope_theta": 2_000_000.0,
    "use_sliding_window": False,
    "sliding_window": None,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}
GRANITE_KEYS = frozenset(("embedding_scale", "residual_scale", "attention.scale", "logit_scale"))
GRANITE = {
    **LLAMA,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}
_GRANITE_HYBRID = {
    **GRANITE,
    "shared_intermediate_size": 1024,
    "num_local_experts": 8,
    "position_embedding_type": None,
}
_SEED_OSS = {
    **LLAMA,
    "vocab_size": 155_136,
    "intermediate_size": 27_648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524_288,
    "attention_bias": True,
}
_SEED_OSS_BIASES = {**LLAMA_BIASES, "attention_bias": frozenset("qkv"), "attention_out_bias": frozenset("o")}
_ERNIE = {
    **LLAMA,
    "vocab_size": 103_424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
}
_HUNYUAN = {**LLAMA, "vocab_size": 290_943, "rms_norm_eps": 1e-5}


def _smollm3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    rotated = all_but_every(values.count(content, "no_rope_layer_interval"), config.num_layers)
    if content.get("no_rope_layers") is not None:
        flags = values.items(content, "no_rope_layers", int)
        if len(flags) != config.num_layers or not set(flags) <= {0, 1}:
            raise ModelFormatError("no_rope_layers in the model's config.json must have a 0 or 1 for each layer")
        rotated = tuple(map(bool, flags))
    fields = _rotation(rotated)
    if values.flag(content, "use_sliding_window"):
        windowed = tuple(not is_rotated for is_rotated in rotated)
        fields |= window_of_types(config, content, windowed, config.max_position)
    return fields


def _gguf_smollm3(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    values.require(metadata, "smollm3.attention.sliding_window", 0)
    return _rotation(all_but_every(SMOLLM3_PERIOD, config.num_layers))


def _rotation(rotated: tuple[bool, ...]) -> Fields:
    return {} if all(rotated) else {"layer_is_rotated": rotated}


def granite(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {
        "embedding_scale": values.number(content, "embedding_multiplier"),
        "residual_scale": values.number(content, "residual_multiplier"),
        "query_scale": values.number(content, "attention_multiplier"),
        "logit_scale": 1 / values.number(content, "logits_scaling"),
    }


def _granite_hybrid(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    """Return the fields of a dense model without Mamba layers, as the small ones of Granite 4 are."""
    types = values.items(content, "layer_types", str) or values.items(content, "layers_block_type", str)
    if len(types) != config.num_layers or not set(types) <= {"attention", "full_attention"}:
        raise ModelFormatError(
            "Mamba layers are not supported; of this class, only models with attention in each layer are"
        )
    if content["num_local_experts"]:
        raise ModelFormatError("mixtures of experts are not supported for this class; only its dense models are")
    rotates = content["position_embedding_type"] == "rope"
    return (
        granite(config, content)
        | _rotation((rotates,) * config.num_layers)
        | {"intermediate_size": values.count(content, "shared_intermediate_size"), "has_joined_gate_up": True}
    )


def gguf_granite(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    prefix = f"{config.architecture}."
    refuse_caps(config, metadata)
    rotates = values.flag(metadata, f"{prefix}rope.scaling.finetuned", True)
    return _rotation((rotates,) * config.num_layers) | {
        "embedding_scale": values.optional_number(metadata, f"{prefix}embedding_scale") or 1.0,
        "residual_scale": values.optional_number(metadata, f"{prefix}residual_scale") or 1.0,
        "query_scale": values.optional_number(metadata, f"{prefix}attention.scale"),
        "logit_scale": 1 / values.number(metadata, f"{prefix}logit_scale"),
    }


def _hunyuan(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    fields: Fields = {"qk_norm": True, "qk_norm_after_rotation": True}
    parameters = content.get("rope_scaling") or content.get("rope_parameters") or {}
    if parameters.get("rope_type", parameters.get("type")) != "dynamic" or not parameters.get("alpha"):
        return fields
    # Checkpoints call it "dynamic", but the frequencies are those of one larger base.
    exponent = config.head_size / (config.head_size - 2)
    theta = config.rope_theta * values.number(parameters, "alpha") ** exponent
    return fields | {"rope_theta": theta, "rope_scaling": None}


def _gguf_hunyuan(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return {"qk_norm": True, "qk_norm_after_rotation": True}


HF_FAMILIES: Mapping[str, Family] = {
    "SmolLM3ForCausalLM": Family(
        architecture="smollm3", fields=_smollm3, defaults=_SMOLLM3, bias_settings=LLAMA_BIASES
    ),
    "GraniteForCausalLM": Family(architecture="granite", fields=granite, defaults=GRANITE, bias_settings=LLAMA_BIASES),
    "GraniteMoeHybridForCausalLM": Family(
        architecture="granite", fields=_granite_hybrid, defaults=_GRANITE_HYBRID, bias_settings=ATTENTION_BIAS
    ),
    "SeedOssForCausalLM": Family(
        architecture="seed_oss", fields=plain, defaults=_SEED_OSS, bias_settings=_SEED_OSS_BIASES
    ),
    "Ernie4_5ForCausalLM": Family(
        architecture="ernie4_5",
        fields=plain,
        defaults=_ERNIE,
        bias_settings={"use_bias": frozenset().union(*LLAMA_BIASES.values())},
    ),
    "HunYuanDenseV1ForCausalLM": Family(
        architecture="hunyuan-dense", fields=_hunyuan, defaults=_HUNYUAN, bias_settings=ATTENTION_BIAS
    ),
}
GGUF_FAMILIES = {
    "smollm3": GGUFFamily(fields=_gguf_smollm3),
    "granite": GGUFFamily(
        fields=gguf_granite,
        numbers=GRANITE_KEYS,
    ),
    "seed_oss": GGUFFamily(fields=plain_gguf),
    "ernie4_5": GGUFFamily(fields=plain_gguf),
    "hunyuan-dense": GGUFFamily(fields=_gguf_hunyuan),
}
TENSORS = {
    "smollm3": LayerTensors(interleaved=frozenset((ModelFormat.GGUF,))),
    "granite": LayerTensors(
        interleaved=frozenset((ModelFormat.GGUF,)),
        safetensors={"shared_mlp.input_linear": "gate_up", "shared_mlp.output_linear": "down"},
    ),
    "seed_oss": LayerTensors(gguf={"post_attention_norm": "mlp_norm"}),
    "ernie4_5": LayerTensors(interleaved=BOTH_FORMATS),
    "hunyuan-dense": LayerTensors(
        safetensors={"self_attn.query_layernorm": "q_norm", "self_attn.key_layernorm": "k_norm"}
    ),
}
