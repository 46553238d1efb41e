"""Mixtures of experts: Qwen 2 and 3 MoE, OLMoE and Granite MoE. Mixtral is in llama.py, with whose files its own are one family."""

from collections.abc import Iterable, Mapping
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.formats.families.expert_fields import EXPERT_KEYS, gguf_experts, hf_experts
from pagoda.models.formats.families.family import (
    ATTENTION_BIAS,
    Family,
    Fields,
    GGUFFamily,
    refuse_caps,
    window_everywhere,
    window_of_types,
)
from pagoda.models.formats.families.layer_tensors import LayerTensors
from pagoda.models.formats.families.llama import LLAMA
from pagoda.models.formats.families.llama_variants import GRANITE, GRANITE_KEYS, gguf_granite, granite
from pagoda.models.model import ModelConfig, ModelFormat

_QWEN2_MOE = {
    **LLAMA,
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_local_experts": None,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "qkv_bias": True,
}
_QWEN3_MOE = {
    **_QWEN2_MOE,
    "intermediate_size": 6144,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
_OLMOE = {
    **LLAMA,
    "vocab_size": 50_304,
    "hidden_size": 2048,
    "intermediate_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "num_local_experts": None,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
}
_GRANITE_MOE = {**GRANITE, "num_local_experts": 8, "num_experts": None, "num_experts_per_tok": 2}


def _sparse_layers(config: ModelConfig, content: Mapping[str, Any]) -> tuple[bool, ...]:
    """Return whether each layer has experts, or nothing if all have."""
    dense, step = values.items(content, "mlp_only_layers", int), values.count(content, "decoder_sparse_step")
    return _unless_all(layer not in dense and (layer + 1) % step == 0 for layer in range(config.num_layers))


def _unless_all(flags: Iterable[bool]) -> tuple[bool, ...]:
    layers = tuple(flags)
    if not any(layers):
        raise ModelFormatError("the model's config.json has experts, but no layer uses them")
    return () if all(layers) else layers


def _qwen2moe(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    experts = hf_experts(
        content,
        "moe_intermediate_size",
        shared_size=values.count(content, "shared_expert_intermediate_size"),
        gates_shared=True,
        layer_has_experts=_sparse_layers(config, content),
    )
    if not values.flag(content, "use_sliding_window"):
        return experts
    first_without = content["max_window_layers"] and values.count(content, "max_window_layers")
    layers = tuple(layer % 2 == 0 and layer < first_without for layer in range(config.num_layers))
    return experts | window_of_types(config, content, layers, config.max_position)


def _qwen3moe(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    windows = window_everywhere(config, content) if values.flag(content, "use_sliding_window") else {}
    layers = _sparse_layers(config, content)
    return windows | {"qk_norm": True} | hf_experts(content, "moe_intermediate_size", layer_has_experts=layers)


def _olmoe(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {"qk_norm": True, "qk_norm_spans_heads": True} | hf_experts(content, "intermediate_size")


def _granitemoe(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    shared_size = values.optional_count(content, "shared_intermediate_size") or 0
    return granite(config, content) | hf_experts(
        content, "intermediate_size", renormalizes=True, shared_size=shared_size
    )


def _gguf_qwen2moe(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return gguf_experts(config, metadata, renormalizes=False, gates_shared=True, divides_size=True)


def _gguf_qwen3moe(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return {"qk_norm": True} | gguf_experts(config, metadata, renormalizes=True, divides_size=True)


def _gguf_olmoe(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    refuse_caps(config, metadata)
    return {"qk_norm": True, "qk_norm_spans_heads": True} | gguf_experts(config, metadata, renormalizes=False)


def _gguf_granitemoe(config: ModelConfig, metadata: Mapping[str, Any]) -> Fields:
    return gguf_granite(config, metadata) | gguf_experts(config, metadata, renormalizes=True)


HF_FAMILIES: Mapping[str, Family] = {
    "Qwen2MoeForCausalLM": Family(
        architecture="qwen2moe", fields=_qwen2moe, defaults=_QWEN2_MOE, bias_settings={"qkv_bias": frozenset("qkv")}
    ),
    "Qwen3MoeForCausalLM": Family(
        architecture="qwen3moe", fields=_qwen3moe, defaults=_QWEN3_MOE, bias_settings=ATTENTION_BIAS
    ),
    "OlmoeForCausalLM": Family(architecture="olmoe", fields=_olmoe, defaults=_OLMOE, bias_settings=ATTENTION_BIAS),
    "GraniteMoeForCausalLM": Family(
        architecture="granitemoe", fields=_granitemoe, defaults=_GRANITE_MOE, bias_settings=ATTENTION_BIAS
    ),
    "GraniteMoeSharedForCausalLM": Family(
        architecture="granitemoe", fields=_granitemoe, defaults=_GRANITE_MOE, bias_settings=ATTENTION_BIAS
    ),
}
GGUF_FAMILIES = {
    "qwen2moe": GGUFFamily(fields=_gguf_qwen2moe, numbers=EXPERT_KEYS),
    "qwen3moe": GGUFFamily(fields=_gguf_qwen3moe, numbers=EXPERT_KEYS),
    "olmoe": GGUFFamily(fields=_gguf_olmoe, numbers=EXPERT_KEYS),
    "granitemoe": GGUFFamily(fields=_gguf_granitemoe, numbers=EXPERT_KEYS | GRANITE_KEYS),
}
TENSORS = {
    "qwen2moe": LayerTensors(biases=frozenset("qkv")),
    "qwen3moe": LayerTensors(),
    "olmoe": LayerTensors(),
    "granitemoe": LayerTensors(interleaved=frozenset((ModelFormat.GGUF,))),
}
