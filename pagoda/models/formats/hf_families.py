"""The differences between each family and a plain llama, read from config.json. There is one entry per class of transformers.

To add a family, write a function that returns the fields of ModelConfig that are not the default, and add it to FAMILIES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import config_values as values
from pagoda.models.model import ModelConfig

Fields = dict[str, Any]
GEMMA3_LOCAL_THETA = 10_000.0

_LLAMA: Mapping[str, Any] = {
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
    **_LLAMA,
    "intermediate_size": 14_336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
}
_QWEN2 = {
    **_LLAMA,
    "vocab_size": 151_936,
    "intermediate_size": 22_016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_GEMMA2 = {
    **_LLAMA,
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
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
_PHI3 = {
    **_LLAMA,
    "vocab_size": 32_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 1.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A family of models."""

    architecture: str
    """Name in GGUF's spelling."""
    fields: Callable[[ModelConfig, Mapping[str, Any]], Fields]
    biases: frozenset[str] = frozenset()
    """Linear layers that always have a bias."""
    has_bias_settings: bool = True
    """True if the class reads `attention_bias` and, for Llama, `mlp_bias`."""
    hidden_act: str = "silu"
    """The only supported activation."""
    defaults: Mapping[str, Any]
    """Values of transformers' class for keys that config.json leaves out."""


def _llama(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {}


def _mistral(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _window_everywhere(config, content)


def _qwen2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    if content.get("use_sliding_window") is not True:
        return {}
    first = 0 if content["max_window_layers"] == 0 else values.count(content, "max_window_layers")
    layers = tuple(layer >= first for layer in range(config.num_layers))
    return _window(config, content, layers, config.max_position)


def _qwen3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _qwen2(config, content) | {"qk_norm": True}


def _phi3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    parameters = content.get("rope_parameters")
    source = parameters if isinstance(parameters, dict) and "partial_rotary_factor" in parameters else content
    share = values.number(source, "partial_rotary_factor", 1.0)
    if share > 1 or (share < 1 and int(config.head_size * share) % 2):
        raise ModelFormatError(
            f"partial_rotary_factor must be at most 1 and rotate an even number of elements (got {share!r})"
        )
    rotary_size = None if share == 1 else int(config.head_size * share)
    return _window_everywhere(config, content) | {"rotary_size": rotary_size}


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
    layers = tuple((layer + 1) % period != 0 for layer in range(config.num_layers))
    return _window(config, content, layers, max_position) | {
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


def _window_everywhere(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    """Return the window of all layers, for classes that ignore `layer_types`."""
    size = values.optional_count(content, "sliding_window")
    return values.window(size, config.max_position, (True,) * config.num_layers)


def _window(
    config: ModelConfig, content: Mapping[str, Any], layers: tuple[bool, ...], max_position: int | None
) -> Fields:
    """Return the window of the layers that `layer_types` names, or of `layers`, the family's rule, if the file has none."""
    types = values.items(content, "layer_types", str) if content.get("layer_types") is not None else None
    if types is not None:
        if len(types) != config.num_layers or not set(types) <= {"sliding_attention", "full_attention"}:
            raise ModelFormatError(
                "layer_types in the model's config.json must name sliding_attention or full_attention for each layer"
            )
        layers = tuple(kind == "sliding_attention" for kind in types)
    return values.window(values.optional_count(content, "sliding_window"), max_position, layers)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(architecture="llama", fields=_llama, defaults=_LLAMA),
    "MistralForCausalLM": Family(architecture="llama", fields=_mistral, defaults=_MISTRAL, has_bias_settings=False),
    "Qwen2ForCausalLM": Family(
        architecture="qwen2", fields=_qwen2, defaults=_QWEN2, biases=frozenset("qkv"), has_bias_settings=False
    ),
    "Qwen3ForCausalLM": Family(architecture="qwen3", fields=_qwen3, defaults={**_QWEN2, "head_dim": 128}),
    "Gemma2ForCausalLM": Family(
        architecture="gemma2", fields=_gemma2, defaults=_GEMMA2, hidden_act="gelu_pytorch_tanh"
    ),
    "Gemma3ForCausalLM": Family(
        architecture="gemma3", fields=_gemma3, defaults=_GEMMA3, hidden_act="gelu_pytorch_tanh"
    ),
    "Phi3ForCausalLM": Family(architecture="phi3", fields=_phi3, defaults=_PHI3, has_bias_settings=False),
}
"""Families by the name in `architectures`."""
