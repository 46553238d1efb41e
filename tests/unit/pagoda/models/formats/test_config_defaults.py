"""A key that config.json leaves out has the default of transformers' class."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import hf_config
from pagoda.models.formats.families.tables import HF_FAMILIES
from pagoda.models.model import ExpertsConfig, ModelConfig
from tests.unit.pagoda.models.formats.test_families import SIZES

CLASSES = {
    "Llama": "LlamaForCausalLM",
    "Mistral": "MistralForCausalLM",
    "Ministral3": "Ministral3ForCausalLM",
    "Qwen2": "Qwen2ForCausalLM",
    "Qwen3": "Qwen3ForCausalLM",
    "Gemma2": "Gemma2ForCausalLM",
    "Gemma3Text": "Gemma3ForCausalLM",
    "Phi3": "Phi3ForCausalLM",
    "SmolLM3": "SmolLM3ForCausalLM",
    "Granite": "GraniteForCausalLM",
    "GraniteMoeHybrid": "GraniteMoeHybridForCausalLM",
    "SeedOss": "SeedOssForCausalLM",
    "Ernie4_5": "Ernie4_5ForCausalLM",
    "HunYuanDenseV1": "HunYuanDenseV1ForCausalLM",
    "Gemma": "GemmaForCausalLM",
    "Olmo2": "Olmo2ForCausalLM",
    "Olmo3": "Olmo3ForCausalLM",
    "Exaone4": "Exaone4ForCausalLM",
    "Glm": "GlmForCausalLM",
    "Glm4": "Glm4ForCausalLM",
    "Mixtral": "MixtralForCausalLM",
    "Qwen2Moe": "Qwen2MoeForCausalLM",
    "Qwen3Moe": "Qwen3MoeForCausalLM",
    "Olmoe": "OlmoeForCausalLM",
    "GraniteMoe": "GraniteMoeForCausalLM",
    "GraniteMoeShared": "GraniteMoeSharedForCausalLM",
}
MIXTURES_WITH_WINDOWS = ("mixtral", "qwen2_moe", "qwen3_moe")
WINDOWED = (
    *("ministral3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo3", "exaone4"),
    *MIXTURES_WITH_WINDOWS,
)
"""Model types whose classes read `sliding_window`."""
CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "windowed": {"sliding_window": 64, "use_sliding_window": True, "max_window_layers": 3},
    "without a window": {"sliding_window": None},
    "scaled": {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 5e5},
    "not scaled": {"rope_scaling": {"rope_type": "linear", "factor": 1.0}},
    "llama 3": {
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    },
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256}},
    "tied": {"tie_word_embeddings": True},
    "not tied": {"tie_word_embeddings": False},
    "larger heads": {"head_dim": 32},
}
SIZES_OF_FAMILY: dict[str, dict[str, Any]] = {
    "GraniteMoeHybrid": {
        "layer_types": ["full_attention"] * 7,
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
        "position_embedding_type": "rope",
        "mamba_n_heads": 8,
    }
}
REFUSED_WITHOUT = {("GraniteMoeHybrid", "layer_types"), ("GraniteMoeHybrid", "num_local_experts")}
"""Keys without which a class makes a model that is not supported."""
CHANGES_OF_FAMILY: dict[str, dict[str, dict[str, Any]]] = {
    "SmolLM3": {
        "other layers without rotation": {"no_rope_layers": [1, 0, 1, 1, 0, 1, 1]},
        "no layer without rotation": {"no_rope_layers": None, "no_rope_layer_interval": 8},
    },
    "Granite": {
        "other factors": {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.25,
            "attention_multiplier": 0.5,
            "logits_scaling": 8.0,
        }
    },
    "Qwen2Moe": {
        "other experts": {
            "num_experts": 8,
            "num_experts_per_tok": 5,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 80,
            "norm_topk_prob": True,
        },
        "some layers without experts": {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    },
    "Qwen3Moe": {
        "other experts": {"num_experts": 8, "num_experts_per_tok": 5, "norm_topk_prob": True},
        "experts by another name": {"num_local_experts": 16},
        "some layers without experts": {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    },
    "Olmoe": {"other experts": {"num_experts": 8, "num_experts_per_tok": 5, "norm_topk_prob": True}},
    "Mixtral": {"other experts": {"num_local_experts": 16, "num_experts_per_tok": 3}},
    "GraniteMoeShared": {"other experts": {"num_local_experts": 16, "shared_intermediate_size": 48}},
    "Exaone4": {"a pattern in letters": {"sliding_window_pattern": "LLG"}},
}
ALIKE = (
    *("GraniteMoeHybrid", "SeedOss", "Ernie4_5", "HunYuanDenseV1", "Gemma", "Olmo2", "Granite", "Glm"),
    *("Olmoe", "GraniteMoe", "GraniteMoeShared"),
)
"""Classes whose config differs from Llama's in its defaults and in what CHANGES_OF_FAMILY has."""


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the class and the changes of each case, by its name."""
    few = {name: CHANGES[name] for name in ("as it is", "larger heads")}
    return {
        f"{family}-{name}": (family, changes)
        for family in CLASSES
        for name, changes in ((few if family in ALIKE else CHANGES) | CHANGES_OF_FAMILY.get(family, {})).items()
    }


def numbers_of_transformers(config: Any) -> dict[str, Any]:
    """Return the values of transformers' own object under the names of ModelConfig."""
    rope = config.rope_parameters
    full = rope.get("full_attention", rope)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    types = getattr(config, "layer_types", None)
    window = config.sliding_window if config.model_type in WINDOWED else None
    if config.model_type == "smollm3" and not config.use_sliding_window:
        window = None
    if types is None:
        types = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    windowed = tuple(kind == "sliding_attention" for kind in types)
    matters = "full_attention" in rope or config.model_type == "exaone4"
    if not window or not any(windowed) or (window >= config.max_position_embeddings and not matters):
        window, windowed = None, ()
    is_extended = full["rope_type"] in ("yarn", "dynamic")
    extended = full["factor"] * full.get("original_max_position_embeddings", 512) if is_extended else 0
    has_original = full["rope_type"] in ("llama3", "yarn")
    numbers = {
        "num_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": (
            config.shared_intermediate_size if config.model_type == "granitemoehybrid" else config.intermediate_size
        ),
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "head_size": head_size,
        "vocab_size": config.vocab_size,
        "max_position": max(config.max_position_embeddings, extended),
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": float(full["rope_theta"]),
        "rope_factor": None if full.get("factor", 1.0) == 1.0 else full["factor"],
        "rope_original": full["original_max_position_embeddings"] if has_original else None,
        "sliding_window": window,
        "layer_uses_sliding_window": windowed,
        "attention_logit_cap": getattr(config, "attn_logit_softcapping", None),
        "final_logit_cap": getattr(config, "final_logit_softcapping", None),
        "query_scale": getattr(
            config, "attention_multiplier", getattr(config, "query_pre_attn_scalar", head_size) ** -0.5
        ),
        "residual_scale": getattr(config, "residual_multiplier", 1.0),
        "logit_scale": 1 / getattr(config, "logits_scaling", 1.0),
        "experts": experts_of_transformers(config),
        "layer_is_rotated": rotated_layers(config, windowed),
        "rope_theta_local": float(rope["sliding_attention"]["rope_theta"]) if "sliding_attention" in rope else None,
        "rotary_size": int(head_size * full.get("partial_rotary_factor", 1.0)),
    }
    return numbers


def experts_of_transformers(config: Any) -> ExpertsConfig | None:
    number = getattr(config, "num_local_experts", getattr(config, "num_experts", None))
    if not number:
        return None
    step, dense = getattr(config, "decoder_sparse_step", 1), getattr(config, "mlp_only_layers", [])
    layers = tuple((i + 1) % step == 0 and i not in dense for i in range(config.num_hidden_layers))
    return ExpertsConfig(
        num_experts=number,
        num_used=config.num_experts_per_tok,
        intermediate_size=getattr(config, "moe_intermediate_size", config.intermediate_size),
        renormalizes=getattr(config, "norm_topk_prob", True),
        shared_size=getattr(config, "shared_expert_intermediate_size", getattr(config, "shared_intermediate_size", 0)),
        gates_shared=config.model_type == "qwen2_moe",
        layer_has_experts=() if all(layers) else layers,
    )


def rotated_layers(config: Any, windowed: tuple[bool, ...]) -> tuple[bool, ...]:
    """Return the flags of `layer_is_rotated`, as the attention of transformers' class decides for each layer."""
    match config.model_type:
        case "smollm3":
            return () if all(config.no_rope_layers) else tuple(map(bool, config.no_rope_layers))
        case "exaone4":
            return windowed
        case "granitemoehybrid" if config.position_embedding_type != "rope":
            return tuple(False for _ in range(config.num_hidden_layers))
    return ()


def numbers_of_ours(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    names = (
        *("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_size", "vocab_size"),
        *("max_position", "rms_norm_eps", "tie_word_embeddings", "rope_theta", "sliding_window", "rope_theta_local"),
        *("layer_uses_sliding_window", "attention_logit_cap", "final_logit_cap", "residual_scale"),
        *("logit_scale", "layer_is_rotated", "experts"),
    )
    return {name: getattr(config, name) for name in names} | {
        "rope_factor": scaling.factor if scaling else None,
        "rope_original": scaling.original_max_position if scaling and scaling.rope_type in ("llama3", "yarn") else None,
        "query_scale": config.query_scale or config.head_size**-0.5,
        "rotary_size": config.rotary_size or config.head_size,
    }


def test_every_class_is_compared() -> None:
    assert set(CLASSES.values()) == set(HF_FAMILIES)


@pytest.mark.parametrize(("family", "changes"), cases().values(), ids=cases())
def test_each_key_left_out(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    whole = json.loads(
        getattr(transformers, f"{family}Config")(
            **SIZES | SIZES_OF_FAMILY.get(family, {}), pad_token_id=0
        ).to_json_string()
    )
    whole |= {"architectures": [CLASSES[family]], **changes}
    if "rope_scaling" in changes:
        del whole["rope_parameters"]
    for left_out in ("", *(key for key in whole if key not in ("architectures", "model_type"))):
        content = {key: value for key, value in whole.items() if key != left_out}
        (tmp_path / "config.json").write_text(json.dumps(content))
        try:
            theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        except Exception:  # a combination that the class itself refuses
            assert left_out or family == "Phi3"
            continue
        if (family, left_out) in REFUSED_WITHOUT:
            with pytest.raises(ModelFormatError, match="not supported"):
                hf_config.read_config(tmp_path)
            continue
        expected, ours = numbers_of_transformers(theirs), numbers_of_ours(hf_config.read_config(tmp_path))
        assert ours == expected, f"without {left_out!r}"
