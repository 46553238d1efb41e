"""What each family has beyond a plain llama, from a checkpoint's config.json: one entry per class of Hugging Face's.

Knows nothing about tensors. To add a family, write the function that returns ModelConfig's fields that are not the
default, and name it in FAMILIES.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models import config_values as values
from pagoda.models.errors import ModelFormatError
from pagoda.models.model import ModelConfig

Fields = dict[str, Any]
GEMMA3_LOCAL_THETA = 10_000.0
DEFAULT_WINDOW = 4096
"""Of the classes that have a window; Phi-3's has none unless its file says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    architecture: str
    """In GGUF's spelling."""
    fields: Callable[[ModelConfig, Mapping[str, Any]], Fields]
    hidden_act: str = "silu"
    """The only activation it is known with."""
    head_size: int | None = None
    """Where config.json names none; None: hidden_size / num_heads."""
    tie_word_embeddings: bool = False
    """Where config.json does not say."""


def _llama(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return {}


def _mistral(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    content = {"sliding_window": DEFAULT_WINDOW, **content}
    return _window(config, content, (True,) * config.num_layers, config.max_position)


def _qwen2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    if content.get("use_sliding_window") is not True:
        return {}
    first = values.count(content, "max_window_layers", config.num_layers)
    layers = tuple(layer >= first for layer in range(config.num_layers))
    return _window(config, {"sliding_window": DEFAULT_WINDOW, **content}, layers, config.max_position)


def _qwen3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _qwen2(config, content) | {"qk_norm": True}


def _phi3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    parameters = content.get("rope_parameters")
    source = parameters if isinstance(parameters, dict) and "partial_rotary_factor" in parameters else content
    share = values.number(source, "partial_rotary_factor", 1.0)
    if share > 1 or int(config.head_size * share) % 2:
        raise ModelFormatError(f"the model needs partial_rotary_factor = {share!r}, which no head can have")
    rotary_size = None if share == 1 else int(config.head_size * share)
    layers = (True,) * config.num_layers
    return _window(config, content, layers, config.max_position) | {"rotary_size": rotary_size}


def _gemma2(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    return _gemma(config, content, period=2, max_position=config.max_position) | {
        "attention_logit_cap": _cap(content, "attn_logit_softcapping", 50.0),
        "final_logit_cap": _cap(content, "final_logit_softcapping", 30.0),
    }


def _gemma3(config: ModelConfig, content: Mapping[str, Any]) -> Fields:
    period = values.count(content, "_sliding_window_pattern", values.count(content, "sliding_window_pattern", 6))
    # Layers with a window rotate by another base, so that they are told apart even where the window is never full.
    return _gemma(config, content, period=period, max_position=None) | {
        "attention_logit_cap": _cap(content, "attn_logit_softcapping", None),
        "final_logit_cap": _cap(content, "final_logit_softcapping", None),
        "qk_norm": True,
        "rope_theta_local": _local_theta(content),
    }


def _gemma(config: ModelConfig, content: Mapping[str, Any], *, period: int, max_position: int | None) -> Fields:
    values.require(content, "use_bidirectional_attention", False)
    layers = tuple((layer + 1) % period != 0 for layer in range(config.num_layers))
    return _window(config, {"sliding_window": DEFAULT_WINDOW, **content}, layers, max_position) | {
        "activation": "gelu_tanh",
        "embedding_scale": config.hidden_size**0.5,
        "norm_weight_offset": 1.0,
        "query_scale": values.number(content, "query_pre_attn_scalar", 256) ** -0.5,
    }


def _local_theta(content: Mapping[str, Any]) -> float:
    """Older files have `rope_local_base_freq`, newer ones rope parameters per layer type; local layers are never scaled."""
    parameters = content.get("rope_parameters")
    local = parameters.get("sliding_attention") if isinstance(parameters, dict) else None
    if not isinstance(local, dict):
        return values.number(content, "rope_local_base_freq", GEMMA3_LOCAL_THETA)
    values.require(local, "rope_type", "default")
    return values.number(local, "rope_theta", GEMMA3_LOCAL_THETA)


def _cap(content: Mapping[str, Any], key: str, default: float | None) -> float | None:
    return values.optional_number(content, key) if key in content else default


def _window(
    config: ModelConfig, content: Mapping[str, Any], layers: tuple[bool, ...], max_position: int | None
) -> Fields:
    """`layer_types`, where the file has them, say which layers have the window; otherwise the family's rule."""
    types = values.items(content, "layer_types", str) if content.get("layer_types") is not None else None
    if types is not None:
        if len(types) != config.num_layers or not set(types) <= {"sliding_attention", "full_attention"}:
            raise ModelFormatError("the model's config.json has layer_types that do not fit its layers")
        layers = tuple(kind == "sliding_attention" for kind in types)
    return values.window(values.optional_count(content, "sliding_window"), max_position, layers)


FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(architecture="llama", fields=_llama),
    "MistralForCausalLM": Family(architecture="llama", fields=_mistral),
    "Qwen2ForCausalLM": Family(architecture="qwen2", fields=_qwen2),
    "Qwen3ForCausalLM": Family(architecture="qwen3", fields=_qwen3, head_size=128),
    "Gemma2ForCausalLM": Family(
        architecture="gemma2",
        fields=_gemma2,
        hidden_act="gelu_pytorch_tanh",
        head_size=256,
        tie_word_embeddings=True,
    ),
    "Gemma3ForCausalLM": Family(
        architecture="gemma3",
        fields=_gemma3,
        hidden_act="gelu_pytorch_tanh",
        head_size=256,
        tie_word_embeddings=True,
    ),
    "Phi3ForCausalLM": Family(architecture="phi3", fields=_phi3),
}
"""By the name in `architectures`."""
