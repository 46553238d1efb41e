"""The description of each family, from transformers' own config.json and from GGUF metadata."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import transformers

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import gguf_config, hf_config
from pagoda.models.formats.families.tables import GGUF_FAMILIES, HF_FAMILIES
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.text_part import WRAPPERS
from pagoda.models.model import ModelConfig, RopeScaling

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
BASE = ModelConfig(
    architecture="llama",
    num_layers=7,
    hidden_size=32,
    intermediate_size=64,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    vocab_size=96,
    max_position=512,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    rope_scaling=None,
    tie_word_embeddings=False,
)
LINEAR = RopeScaling(rope_type="linear", factor=4.0)
WINDOWED: dict[str, Any] = {"sliding_window": 64, "layer_uses_sliding_window": (True,) * 7}
ALTERNATING = (True, False, True, False, True, False, True)
FIVE_OF_SIX = (True, True, True, True, True, False, True)
GEMMA = replace(
    BASE, head_size=16, activation="gelu_tanh", embedding_scale=32**0.5, tie_word_embeddings=True, sliding_window=64
)
GEMMA2 = replace(
    GEMMA,
    architecture="gemma2",
    layer_uses_sliding_window=ALTERNATING,
    attention_logit_cap=50.0,
    final_logit_cap=30.0,
)
GEMMA3 = replace(
    GEMMA,
    architecture="gemma3",
    layer_uses_sliding_window=FIVE_OF_SIX,
    qk_norm=True,
    rope_theta=1e6,
    rope_theta_local=10_000.0,
)
WIDE_NORMS: dict[str, Any] = {"qk_norm": True, "qk_norm_spans_heads": True}
THREE_OF_FOUR = (True, True, True, False, True, True, True)
GRANITE = replace(
    BASE, architecture="granite", embedding_scale=12.0, residual_scale=0.25, query_scale=0.5, logit_scale=0.125
)
OLMO3 = replace(BASE, architecture="olmo2", sliding_window=64, layer_uses_sliding_window=THREE_OF_FOUR, **WIDE_NORMS)
EXAONE4 = replace(
    BASE,
    architecture="exaone4",
    qk_norm=True,
    sliding_window=64,
    layer_uses_sliding_window=THREE_OF_FOUR,
    layer_is_rotated=THREE_OF_FOUR,
)
HUNYUAN = replace(BASE, architecture="hunyuan-dense", rms_norm_eps=1e-5, qk_norm=True, qk_norm_after_rotation=True)
HYBRID: dict[str, Any] = {
    "layer_types": ["full_attention"] * 7,
    "num_local_experts": 0,
    "shared_intermediate_size": 48,
    "mamba_n_heads": 8,
}
JOINED: dict[str, Any] = {"has_joined_qkv": True, "has_joined_gate_up": True}
OF_HUGGING_FACE: dict[str, Any] = {"norm_weight_offset": 1.0, "query_scale": 0.25}


def save_config(directory: Path, family: str, **changes: Any) -> dict[str, Any]:
    config = getattr(transformers, f"{family}Config")(**SIZES | changes)
    architecture = f"{family.removesuffix('Text')}ForCausalLM"
    content = json.loads(config.to_json_string()) | {"architectures": [architecture]}
    return write_config(directory, content)


def write_config(directory: Path, content: dict[str, Any]) -> dict[str, Any]:
    (directory / "config.json").write_text(json.dumps(content))
    return content


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("Llama", {"head_dim": 8}, BASE),
        ("Mistral", {"head_dim": None, "sliding_window": 64}, replace(BASE, **WINDOWED)),
        ("Mistral", {"head_dim": None, "sliding_window": None}, BASE),
        ("Mistral", {"head_dim": None, "sliding_window": 4096}, BASE),
        ("Qwen2", {}, replace(BASE, architecture="qwen2")),
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 5, "tie_word_embeddings": True},
            replace(
                BASE,
                architecture="qwen2",
                sliding_window=64,
                layer_uses_sliding_window=(False,) * 5 + (True,) * 2,
                tie_word_embeddings=True,
            ),
        ),
        ("Qwen3", {}, replace(BASE, architecture="qwen3", head_size=128, qk_norm=True)),
        (
            "Gemma2",
            {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
            replace(GEMMA2, **OF_HUGGING_FACE),
        ),
        (
            "Gemma3Text",
            {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
            replace(GEMMA3, **OF_HUGGING_FACE),
        ),
        (
            "Phi3",
            {"pad_token_id": 0},
            replace(BASE, architecture="phi3", rms_norm_eps=1e-5, **JOINED),
        ),
        (
            "Phi3",
            {"pad_token_id": 0, "sliding_window": 64, "rope_parameters": {"partial_rotary_factor": 0.75}},
            replace(BASE, architecture="phi3", rms_norm_eps=1e-5, rotary_size=6, **JOINED, **WINDOWED),
        ),
        (
            "SmolLM3",
            {},
            replace(
                BASE,
                architecture="smollm3",
                rope_theta=2e6,
                tie_word_embeddings=True,
                layer_is_rotated=THREE_OF_FOUR,
            ),
        ),
        (
            "SmolLM3",
            {"no_rope_layers": [1] * 7, "use_sliding_window": True, "sliding_window": 64},
            replace(BASE, architecture="smollm3", rope_theta=2e6, tie_word_embeddings=True),
        ),
        ("Granite", {}, replace(BASE, architecture="granite", query_scale=1.0)),
        (
            "Granite",
            {
                "embedding_multiplier": 12,
                "residual_multiplier": 0.25,
                "attention_multiplier": 0.5,
                "logits_scaling": 8,
            },
            GRANITE,
        ),
        (
            "GraniteMoeHybrid",
            HYBRID | {"position_embedding_type": "rope"},
            replace(BASE, architecture="granite", query_scale=1.0, intermediate_size=48, has_joined_gate_up=True),
        ),
        (
            "GraniteMoeHybrid",
            HYBRID,
            replace(
                BASE,
                architecture="granite",
                query_scale=1.0,
                intermediate_size=48,
                has_joined_gate_up=True,
                layer_is_rotated=(False,) * 7,
            ),
        ),
        ("SeedOss", {"head_dim": 8}, replace(BASE, architecture="seed_oss")),
        (
            "Ernie4_5",
            {"head_dim": 8, "tie_word_embeddings": False},
            replace(BASE, architecture="ernie4_5", rms_norm_eps=1e-5, rope_theta=5e5),
        ),
        ("HunYuanDenseV1", {"head_dim": 8}, HUNYUAN),
        (
            "HunYuanDenseV1",
            {"head_dim": 8, "rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}},
            replace(HUNYUAN, rope_theta=10_000.0 * 1000.0 ** (8 / 6)),
        ),
        (
            "Gemma",
            {"head_dim": 16, "hidden_act": "gelu"},
            replace(GEMMA, architecture="gemma", sliding_window=None, norm_weight_offset=1.0),
        ),
        ("Olmo2", {}, replace(BASE, architecture="olmo2", rms_norm_eps=1e-5, **WIDE_NORMS)),
        (
            "Olmo3",
            {"sliding_window": 64},
            replace(OLMO3, rms_norm_eps=1e-5, rope_theta=5e5, rope_theta_local=5e5),
        ),
        (
            "Olmo3",
            {"sliding_window": 64, "layer_types": ["full_attention"] * 7},
            replace(BASE, architecture="olmo2", rms_norm_eps=1e-5, rope_theta=5e5, rope_theta_local=5e5, **WIDE_NORMS),
        ),
        ("Exaone4", {"sliding_window": 64}, replace(EXAONE4, rms_norm_eps=1e-5)),
        (
            "Exaone4",
            {"sliding_window": None, "layer_types": ["full_attention"] * 7},
            replace(BASE, architecture="exaone4", qk_norm=True, rms_norm_eps=1e-5),
        ),
        (
            "Glm",
            {"head_dim": 8},
            replace(BASE, architecture="chatglm", has_joined_gate_up=True, rms_norm_eps=1.5625e-7, rotary_size=4),
        ),
        (
            "Glm4",
            {"head_dim": 8, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.75}},
            replace(BASE, architecture="glm4", has_joined_gate_up=True, rms_norm_eps=1.5625e-7, rotary_size=6),
        ),
    ],
)
def test_config_of_transformers(family: str, changes: dict[str, Any], expected: ModelConfig, tmp_path: Path) -> None:
    save_config(tmp_path, family, **changes)
    assert hf_config.read_config(tmp_path) == expected


def test_older_gemma3_config(tmp_path: Path) -> None:
    content = save_config(tmp_path, "Gemma3Text", head_dim=16, query_pre_attn_scalar=16, sliding_window=64)
    for key in ("rope_parameters", "layer_types", "_sliding_window_pattern", "tie_word_embeddings"):
        del content[key]
    write_config(
        tmp_path,
        content
        | {
            "rope_theta": 1e6,
            "rope_local_base_freq": 5000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 2,
        },
    )
    config = hf_config.read_config(tmp_path)
    assert (config.rope_theta, config.rope_theta_local) == (1e6, 5000.0)
    assert config.rope_scaling is not None and config.rope_scaling.factor == 8.0
    assert config.layer_uses_sliding_window == ALTERNATING
    assert config.tie_word_embeddings


def test_config_that_transformers_fills_in(tmp_path: Path) -> None:
    content = save_config(tmp_path, "Mistral", head_dim=None, max_position_embeddings=8192)
    del content["sliding_window"]
    write_config(tmp_path, content)
    assert hf_config.read_config(tmp_path).sliding_window == 4096


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        (
            "Phi3",
            {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            "'short_factor' .* list of numbers",
        ),
        ("Llama", {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}, "'proportional' is not supp"),
        ("Llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu'; only 'silu'"),
        ("Gemma2", {"hidden_activation": "relu"}, "only 'gelu_pytorch_tanh'"),
        ("Gemma3Text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "Qwen3",
            {"layer_types": ["full_attention"], "use_sliding_window": True},
            "layer_types in the model's config.json must name",
        ),
        ("Phi3", {"rope_parameters": {"partial_rotary_factor": 2.0}}, "partial_rotary_factor must be at most 1"),
        ("Mistral", {"num_hidden_layers": 1 << 20}, "must be at most 4096 "),
        ("Llama", {"logits_scaling": 8.0}, "logits_scaling = 8.0; only 1.0"),
        ("Llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5; only 1.0"),
        ("Mistral", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping = 30.0"),
        ("Qwen3", {"num_experts": 8}, "num_experts = 8"),
        ("SmolLM3", {"no_rope_layers": [1, 0]}, "no_rope_layers .* must have a 0 or 1 for each layer"),
        ("SmolLM3", {"no_rope_layers": [2] * 7}, "no_rope_layers .* must have a 0 or 1 for each layer"),
        ("Granite", {"residual_multiplier": 0}, "'residual_multiplier' .* must be a positive number"),
        ("Granite", {"residual_multiplier": 1e300}, r"'residual_multiplier' .* from 1e-30 to 1e\+30"),
        ("Llama", {"rope_theta": 1e-300, "rope_parameters": None}, r"'rope_theta' .* from 1e-30 to 1e\+30"),
        ("Llama", {"tie_word_embeddings": "yes"}, "'tie_word_embeddings' .* must be true or false .got 'yes'"),
        ("Qwen3Moe", {"norm_topk_prob": "true"}, "'norm_topk_prob' .* must be true or false .got 'true'"),
        (
            "HunYuanDenseV1",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 1.0, "alpha": 1e308}},
            r"'alpha' .* from 1e-30 to 1e\+30",
        ),
        ("Granite", {"architectures": ["GraniteMoeHybridForCausalLM"]}, "Mamba layers are not supported"),
        (
            "Granite",
            {"architectures": ["GraniteMoeHybridForCausalLM"], "layer_types": ["attention"] * 7},
            "mixtures of experts are not supported for this class",
        ),
        ("Gemma", {"hidden_act": "silu"}, "hidden_act = 'silu'; only 'gelu_pytorch_tanh'"),
        ("Gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Olmo2", {"clip_qkv": 8.0}, "clip_qkv = 8.0"),
        ("Olmo3", {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}}, "rope_type = 'yarn'"),
        ("Exaone4", {"sliding_window_pattern": "LXG"}, "must be a period or letters L and G .got 'LXG'"),
        ("Glm4", {"rope_parameters": {"partial_rotary_factor": 0.9}}, "partial_rotary_factor must be .* even"),
    ],
)
def test_refused_by_name(family: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_config(tmp_path, save_config(tmp_path, family, pad_token_id=0) | change)
    with pytest.raises(ModelFormatError, match=message):
        hf_config.read_config(tmp_path)


def test_a_flag_may_be_a_number_and_a_list_null(tmp_path: Path) -> None:
    write_config(
        tmp_path, save_config(tmp_path, "Qwen3Moe", pad_token_id=0) | {"norm_topk_prob": 1, "mlp_only_layers": None}
    )
    experts = hf_config.read_config(tmp_path).experts
    assert experts is not None
    assert experts.renormalizes
    assert experts.layer_has_experts == ()


def test_unknown_class_is_told_the_known(tmp_path: Path) -> None:
    save_config(tmp_path, "Nemotron", pad_token_id=0)
    known = ", ".join([*HF_FAMILIES, *WRAPPERS])
    with pytest.raises(
        ModelFormatError, match=rf"'NemotronForCausalLM' is not supported \(supported for Hugging Face: {known}\)"
    ):
        hf_config.read_config(tmp_path)


def read_gguf(path: Path, architecture: str, *, tied: bool = False, head_size: int = 8, **values: Any) -> ModelConfig:
    """Read the config of a file with the sizes above and `values` as more metadata, dots written as double underscores."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(7)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    if "feed_forward_length" not in values:
        writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    if "attention__head_count_kv" not in values:
        writer.add_head_count_kv(2)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(1e-6)
    for key, value in values.items():
        add = {
            bool: writer.add_bool,
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
        }
        add[type(value)](f"{architecture}.{key.replace('__', '.')}", value)
    writer.add_tensor("token_embd.weight", np.zeros((96, 32), dtype=np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((96, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(path) as file:
        config = gguf_config.read_config(file)
    return replace(config, rms_norm_eps=round(config.rms_norm_eps, 9))


GEMMA2_KEYS: dict[str, Any] = {
    "attention__sliding_window": 64,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GRANITE_KEYS: dict[str, Any] = {
    "embedding_scale": 12.0,
    "residual_scale": 0.25,
    "attention__scale": 0.5,
    "logit_scale": 8.0,
}
GEMMA3_KEYS: dict[str, Any] = {"attention__sliding_window": 64, "rope__freq_base": 1e6}


@pytest.mark.parametrize(
    ("architecture", "values", "expected"),
    [
        ("llama", {"rope__dimension_count": 8}, BASE),
        ("llama", {"attention__sliding_window": 64}, replace(BASE, **WINDOWED)),
        ("qwen2", {"rope__scaling__type": "none"}, replace(BASE, architecture="qwen2")),
        ("qwen3", {}, replace(BASE, architecture="qwen3", qk_norm=True)),
        ("llama", {"rope__scaling__factor": 4.0}, replace(BASE, rope_scaling=LINEAR)),
        ("llama", {"rope__scaling__factor": 4.0, "rope__scaling__type": "linear"}, replace(BASE, rope_scaling=LINEAR)),
        ("llama", {"rope__scaling__factor": 4.0, "rope__scaling__type": "none"}, BASE),
        ("llama", {"rope__scale_linear": 4.0}, replace(BASE, rope_scaling=LINEAR)),
        ("llama", {"rope__scale_linear": 2.0, "rope__scaling__factor": 4.0}, replace(BASE, rope_scaling=LINEAR)),
        ("llama", {"rope__scaling__factor": 1.0, "rope__scaling__original_context_length": 64}, BASE),
        ("llama", {"rope__scaling__factor": 0.0, "rope__scale_linear": 0.0}, BASE),
        ("llama", {"attention__scale": 8**-0.5, "logit_scale": 1.0, "residual_scale": 0.0}, BASE),
        ("phi3", {"attention__sliding_window": 0}, replace(BASE, architecture="phi3", has_joined_gate_up=True)),
        (
            "phi3",
            {"rope__dimension_count": 6, "attention__sliding_window": 64},
            replace(BASE, architecture="phi3", has_joined_gate_up=True, rotary_size=6, **WINDOWED),
        ),
        ("gemma2", GEMMA2_KEYS, GEMMA2),
        ("gemma2", {"attention__sliding_window": 64}, GEMMA2),
        ("gemma3", GEMMA3_KEYS, GEMMA3),
        ("gemma3", {"attention__sliding_window": 64}, GEMMA3),
        (  # as in gemma3:1b of Ollama's library
            "gemma3",
            {
                "attention__sliding_window": 64,
                "final_logit_softcapping": 30.0,
                "rope__global__freq_base": 2e6,
                "rope__local__freq_base": 5000.0,
            },
            replace(GEMMA3, rope_theta=2e6, rope_theta_local=5000.0),
        ),
        (
            "gemma3",
            {**GEMMA3_KEYS, "final_logit_softcapping": 30.0, "rope__local__freq_base": 5000.0},
            replace(GEMMA3, final_logit_cap=30.0, rope_theta_local=5000.0),
        ),
        (
            "gemma3",
            {**GEMMA3_KEYS, "attention__sliding_window_pattern": 2, "rope__freq_base_swa": 5000.0},
            replace(GEMMA3, layer_uses_sliding_window=ALTERNATING, rope_theta_local=5000.0),
        ),
        (
            "gemma3",
            {**GEMMA3_KEYS, "attention__sliding_window_pattern": [True, False, False, True, True, True, False]},
            replace(GEMMA3, layer_uses_sliding_window=(True, False, False, True, True, True, False)),
        ),
        (
            "smollm3",
            {"rope__freq_base": 2e6},
            replace(BASE, architecture="smollm3", rope_theta=2e6, layer_is_rotated=THREE_OF_FOUR),
        ),
        ("granite", GRANITE_KEYS, GRANITE),
        (
            "granite",
            {"logit_scale": 1.0, "rope__scaling__finetuned": False},
            replace(BASE, architecture="granite", layer_is_rotated=(False,) * 7),
        ),
        ("seed_oss", {}, replace(BASE, architecture="seed_oss")),
        ("ernie4_5", {}, replace(BASE, architecture="ernie4_5")),
        ("hunyuan-dense", {}, replace(HUNYUAN, rms_norm_eps=1e-6)),
        ("gemma", {}, replace(GEMMA, architecture="gemma", sliding_window=None)),
        ("olmo2", {}, replace(BASE, architecture="olmo2", **WIDE_NORMS)),
        (
            "olmo2",
            {"attention__sliding_window": 64, "rope__freq_base": 5e5},
            replace(OLMO3, rope_theta=5e5, rope_theta_local=5e5),
        ),
        ("exaone4", {}, replace(BASE, architecture="exaone4", qk_norm=True)),
        ("exaone4", {"attention__sliding_window": 64}, EXAONE4),
        (
            "chatglm",
            {"rope__dimension_count": 4},
            replace(BASE, architecture="chatglm", has_joined_gate_up=True, rotary_size=4),
        ),
        (
            "glm4",
            {"rope__dimension_count": 6},
            replace(BASE, architecture="glm4", has_joined_gate_up=True, rotary_size=6),
        ),
    ],
)
def test_metadata_of_gguf(architecture: str, values: dict[str, Any], expected: ModelConfig, tmp_path: Path) -> None:
    gemma = architecture.startswith("gemma")
    config = read_gguf(tmp_path / "m.gguf", architecture, tied=gemma, head_size=16 if gemma else 8, **values)
    assert config == expected


def test_largest_gemma_scales_queries_by_another_size(tmp_path: Path) -> None:
    config = read_gguf(tmp_path / "m.gguf", "gemma2", head_size=16, block_count=46, **GEMMA2_KEYS)
    assert config.query_scale == 8**-0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention__sliding_window_pattern": [True]}, "1 entries for 7 layers"),
        ({"attention__sliding_window_pattern": "x"}, r"attention.sliding_window_pattern' .* \(got 'x'\)"),
        ({"rope__dimension_count": 7}, r"at most the head size, 8 \(got 7\)"),
        ({"attention__sliding_window": 1.5}, "must be a positive whole number"),
        ({"rope__scaling__type": "other"}, "'other' is not supported"),
        ({"rope__scaling__type": "yarn"}, "lacks 'gemma3.rope.scaling.factor'"),
        ({"rope__scaling__type": "longrope"}, "no tensor 'rope_factors_long.weight'"),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_attn_factor": 2.0},
            "yarn_attn_factor = 2.0; only 1.139",
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_ext_factor": "x"},
            "yarn_ext_factor = 'x'; only 1.0",
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_ext_factor": 0.5},
            "yarn_ext_factor = 0.5; only 1.0",
        ),
        ({"rope__scaling__yarn_beta_fast": 8.0}, "yarn_beta_fast = 8.0; only 32.0"),
    ],
)
def test_metadata_that_cannot_be(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read_gguf(tmp_path / "m.gguf", "gemma3", **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"logit_scale": 0.5}, "llama.logit_scale = 0.5; only 1.0 is supported"),
        ({"embedding_scale": 12.0}, "embedding_scale = 12.0"),
        ({"residual_scale": 0.25}, "residual_scale = 0.25"),
        ({"attention__scale": 0.5}, "attention.scale = 0.5; only 1 / sqrt.8."),
        ({"attention__clamp_kqv": 8.0}, "attention.clamp_kqv = 8.0"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping = 50.0"),
        ({"rope__freq_base_swa": 5000.0}, "rope.freq_base_swa = 5000.0"),
        ({"expert_count": 8}, "lacks 'llama.expert_used_count'"),
        ({"rope__scaling__attn_factor": 1.5}, "rope.scaling.attn_factor = 1.5"),
        ({"rope__scaling__type": "linear"}, "lacks 'llama.rope.scaling.factor'"),
        ({"attention__head_count_kv": [2, 2, 1, 1, 1, 1, 1]}, "per layer"),
    ],
)
def test_numbers_of_other_families_are_refused_by_name(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read_gguf(tmp_path / "m.gguf", "llama", **values)


def test_numbers_that_a_family_needs(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"lacks 'granite\.logit_scale'"):
        read_gguf(tmp_path / "m.gguf", "granite")
    with pytest.raises(ModelFormatError, match=r"rope\.dimension_sections\) is not supported"):
        read_gguf(tmp_path / "m.gguf", "glm4", rope__dimension_sections=[2, 1, 1, 0])
    with pytest.raises(ModelFormatError, match=r"smollm3\.attention\.sliding_window = 64"):
        read_gguf(tmp_path / "m.gguf", "smollm3", attention__sliding_window=64)


def test_one_number_for_each_layer(tmp_path: Path) -> None:
    config = read_gguf(tmp_path / "m.gguf", "llama", feed_forward_length=[64] * 7)
    assert config.intermediate_size == 64


def test_unknown_architecture_is_told_the_known(tmp_path: Path) -> None:
    known = ", ".join([*GGUF_FAMILIES, *gguf_config.WITH_VISION])
    with pytest.raises(ModelFormatError, match=rf"'xverse' is not supported \(supported in GGUF: {known}\)"):
        read_gguf(tmp_path / "m.gguf", "xverse")


@pytest.mark.parametrize(("file_type", "expected"), [(15, "Q4_K_M"), (999, "F32"), (None, "F32")])
def test_quantization_is_the_mixture_that_the_file_names(file_type: int | None, expected: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if file_type is not None:
        writer.add_file_type(file_type)
    writer.add_tensor("token_embd.weight", np.zeros((96, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "m.gguf") as file:
        assert gguf_config.quantization(file) == expected
