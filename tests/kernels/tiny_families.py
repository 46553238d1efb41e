"""Tiny random checkpoints of each family, made with transformers, and GGUF files as llama.cpp's converter would write them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers

from pagoda.models.formats.description import describe
from pagoda.models.model import Model
from tests.kernels.tiny_mixtures import MIXTURES, gguf_tensors

WINDOW = 24
VOCAB_SIZE = 131
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFamily:
    name: str
    """Prefix of transformers' class names."""
    architecture: str
    """The architecture's name in GGUF files."""
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Fields of a GGUF file of this family, besides the common numbers."""
    norm_offset: float = 0.0
    """The number that llama.cpp's converter adds to norm weights."""
    has_interleaved_rope: bool = False
    """True if the converter reorders the rows of queries and keys, for a rope that rotates neighbouring elements."""


def _rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, **parameters}}


SHORT_FACTORS, LONG_FACTORS = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5], [1.0, 1.5, 2.5, 5.0, 9.0, 14.0]
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}
LLAMA3_SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: Mapping[str, TinyFamily] = {
    "llama3": TinyFamily(
        name="Llama",
        architecture="llama",
        config=_rope(rope_type="llama3", rope_theta=500_000.0, original_max_position_embeddings=8192, **LLAMA3_SCALING),
        metadata={"rope.freq_base": 500_000.0},
        has_interleaved_rope=True,
    ),
    "mistral": TinyFamily(
        name="Mistral",
        architecture="llama",
        config={"sliding_window": WINDOW, **_rope()},
        metadata={"attention.sliding_window": WINDOW},
        has_interleaved_rope=True,
    ),
    "ministral3": TinyFamily(
        name="Ministral3",
        architecture="mistral3",
        config=_rope(
            rope_type="yarn",
            factor=8.0,
            original_max_position_embeddings=32,
            mscale=1.0,
            mscale_all_dim=0.5,
            llama_4_scaling_beta=0.3,
        ),
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.yarn_log_multiplier": 0.5,
            "attention.temperature_scale": 0.3,
        },
        has_interleaved_rope=True,
    ),
    "qwen2": TinyFamily(
        name="Qwen2",
        architecture="qwen2",
        config={"hidden_size": 96, "head_dim": None, **_rope(rope_theta=1_000_000.0)},
        metadata={"rope.freq_base": 1_000_000.0},
    ),
    "qwen3": TinyFamily(
        name="Qwen3",
        architecture="qwen3",
        config={"tie_word_embeddings": True, **_rope(rope_theta=1_000_000.0)},
        metadata={"rope.freq_base": 1_000_000.0},
    ),
    "gemma2": TinyFamily(
        name="Gemma2",
        architecture="gemma2",
        config={
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 6.0,
            **_rope(),
        },
        metadata={
            "attention.sliding_window": WINDOW,
            "attn_logit_softcapping": 4.0,
            "final_logit_softcapping": 6.0,
        },
        norm_offset=1.0,
    ),
    "gemma3": TinyFamily(
        name="Gemma3Text",
        architecture="gemma3",
        config={
            "num_hidden_layers": 7,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
        metadata={
            "attention.sliding_window": WINDOW,
            "rope.freq_base": 1_000_000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
        norm_offset=1.0,
    ),
    "smollm3": TinyFamily(
        name="SmolLM3",
        architecture="smollm3",
        config={"num_hidden_layers": 5, **_rope(rope_theta=2_000_000.0)},
        metadata={"rope.freq_base": 2_000_000.0},
        has_interleaved_rope=True,
    ),
    "granite": TinyFamily(
        name="Granite",
        architecture="granite",
        config={
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.4,
            "logits_scaling": 6.0,
            **_rope(),
        },
        metadata={"embedding_scale": 12.0, "residual_scale": 0.22, "attention.scale": 0.4, "logit_scale": 6.0},
        has_interleaved_rope=True,
    ),
    "granite4": TinyFamily(
        name="GraniteMoeHybrid",
        architecture="granite",
        config={
            "layer_types": ["full_attention"] * 3,
            "num_local_experts": 0,
            "shared_intermediate_size": COMMON["intermediate_size"],
            "position_embedding_type": "rope",
            "mamba_n_heads": 8,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.246,
            "attention_multiplier": 0.4,
            "logits_scaling": 4.0,
            **_rope(),
        },
        metadata={"embedding_scale": 12.0, "residual_scale": 0.246, "attention.scale": 0.4, "logit_scale": 4.0},
        has_interleaved_rope=True,
    ),
    "seed_oss": TinyFamily(
        name="SeedOss",
        architecture="seed_oss",
        config={"attention_out_bias": True, **_rope()},
    ),
    "ernie4_5": TinyFamily(
        name="Ernie4_5",
        architecture="ernie4_5",
        config={"use_bias": True, **_rope(rope_theta=500_000.0)},
        metadata={"rope.freq_base": 500_000.0},
    ),
    "hunyuan": TinyFamily(
        name="HunYuanDenseV1",
        architecture="hunyuan-dense",
        config=_rope(rope_type="dynamic", factor=1.0, alpha=1000.0),
        metadata={"rope.freq_base": 10_000.0 * 1000.0 ** (16 / 14)},
    ),
    "gemma": TinyFamily(name="Gemma", architecture="gemma", config=_rope(), norm_offset=1.0),
    "olmo2": TinyFamily(
        name="Olmo2",
        architecture="olmo2",
        config={"hidden_size": 96, "head_dim": None, **_rope(rope_theta=500_000.0)},
        metadata={"rope.freq_base": 500_000.0},
    ),
    "olmo3": TinyFamily(
        name="Olmo3",
        architecture="olmo2",
        config={
            "num_hidden_layers": 5,
            "sliding_window": WINDOW,
            "rope_parameters": {
                "full_attention": {"rope_theta": 500_000.0, **YARN},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        },
        metadata={
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [True, True, True, False, True],
            "rope.freq_base": 500_000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    "exaone4": TinyFamily(
        name="Exaone4",
        architecture="exaone4",
        config={"num_hidden_layers": 5, "sliding_window": WINDOW, **_rope()},
        metadata={
            "attention.sliding_window": WINDOW,
            "attention.sliding_window_pattern": [True, True, True, False, True],
        },
    ),
    "chatglm": TinyFamily(
        name="Glm",
        architecture="chatglm",
        config=_rope(partial_rotary_factor=0.5),
        metadata={"rope.dimension_count": 8},
    ),
    "glm4": TinyFamily(
        name="Glm4",
        architecture="glm4",
        config=_rope(partial_rotary_factor=0.75),
        metadata={"rope.dimension_count": 12},
    ),
    "phi3": TinyFamily(
        name="Phi3",
        architecture="phi3",
        config={"hidden_size": 96, "head_dim": None, "sliding_window": WINDOW, **_rope(partial_rotary_factor=0.75)},
        metadata={"attention.sliding_window": WINDOW, "rope.dimension_count": 12},
    ),
    "yarn": TinyFamily(
        name="Qwen3",
        architecture="qwen3",
        config=_rope(rope_type="yarn", factor=8.0, original_max_position_embeddings=32),
        metadata={
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    "longrope": TinyFamily(
        name="Phi3",
        architecture="phi3",
        config={
            "hidden_size": 96,
            "head_dim": None,
            "original_max_position_embeddings": 32,
            **_rope(
                rope_type="longrope",
                partial_rotary_factor=0.75,
                short_factor=SHORT_FACTORS,
                long_factor=LONG_FACTORS,
            ),
        },
        metadata={
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(256 / 32) / math.log(32)),
        },
    ),
    **{name: TinyFamily(**fields) for name, fields in MIXTURES.items()},
}


def make_model(family: TinyFamily, **changes: Any) -> Any:
    """Make a model with random weights, large enough that logits are far from uniform and caps and norms matter."""
    settings = {**COMMON, **family.config, **changes}
    if settings["head_dim"] is None:
        del settings["head_dim"]
    config = getattr(transformers, f"{family.name}Config")(**settings)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family.name.removesuffix('Text')}ForCausalLM")(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5).sub_(family.norm_offset)
            elif name.endswith(".bias"):
                parameter.normal_(std=0.2)
    return model


def save_safetensors(model: Any, directory: Path) -> Model:
    model.save_pretrained(directory)
    return describe("tiny", directory, digest="0" * 64, size_bytes=1)


def save_gguf(
    family: TinyFamily, model: Any, path: Path, *, join_qkv: bool = False, more_tensors: Sequence[str] = ()
) -> Model:
    """Write a GGUF file; `join_qkv` joins queries, keys and values, as some converters do."""
    writer = gguf.GGUFWriter(path, family.architecture)
    _add_metadata(writer, family, model.config)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    tensors = {}
    for name, tensor in _as_llama(model):
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for part_name, part in gguf_tensors(name, tensor):
            spelled = names.get_name(part_name, try_suffixes=(".weight", ".bias"))
            assert spelled, f"llama.cpp has no name for {part_name}"
            tensors[spelled] = _converted(family, model.config, part_name, part)
    for spelled, array in (_with_joined_qkv(tensors) if join_qkv else tensors).items():
        writer.add_tensor(spelled, array)
    for name in more_tensors:
        writer.add_tensor(name, np.ones((2, 3), dtype=np.float32))
    if model.config.rope_parameters.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(model.config))
    for length in ("long", "short"):
        if factors := model.config.rope_parameters.get(f"{length}_factor"):
            writer.add_tensor(f"rope_factors_{length}.weight", np.array(factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return describe("tiny", path, digest="0" * 64, size_bytes=1)


def reference_logits(model: Any, token_ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0]
    return logits


def _add_metadata(writer: gguf.GGUFWriter, family: TinyFamily, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family.config.get("head_dim", COMMON["head_dim"]) is not None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    add: Mapping[type, Callable[[str, Any], None]] = {
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in family.metadata.items():
        add[type(value)](f"{family.architecture}.{key}", value)


def _converted(family: TinyFamily, config: Any, name: str, tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the tensor as llama.cpp's converter writes it: norms with their offset, queries and keys in the order of its rope."""
    if name.endswith("norm.weight"):
        tensor = tensor + family.norm_offset
    projection = name.split(".")[-2]
    if family.has_interleaved_rope and projection in ("q_proj", "k_proj"):
        num_heads = config.num_attention_heads if projection == "q_proj" else config.num_key_value_heads
        halves = tensor.view(num_heads, 2, -1, *tensor.shape[1:])
        tensor = halves.transpose(1, 2).reshape(tensor.shape)
    return np.ascontiguousarray(tensor.numpy())


def _as_llama(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors with the MLP of Granite 4 as Llama has it, if it is no shared expert."""
    for name, tensor in model.state_dict().items():
        prefix, _, last = name.partition("shared_mlp.")
        if getattr(model.config, "num_local_experts", 0):
            yield name, tensor
        elif last == "input_linear.weight":
            yield from zip(
                (f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight"), tensor.chunk(2), strict=True
            )
        else:
            yield name.replace("shared_mlp.output_linear", "mlp.down_proj"), tensor


def _with_joined_qkv(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    parts = [[name.replace("attn_q.", f"attn_{part}.") for part in "qkv"] for name in tensors if "attn_q." in name]
    joined = {names[0].replace("_q", "_qkv"): np.concatenate([tensors[name] for name in names]) for names in parts}
    return {name: array for name, array in tensors.items() if not any(name in names for names in parts)} | joined


def _llama3_factors(config: Any) -> np.ndarray[Any, Any]:
    """Return the rope factors, as LlamaModel.generate_extra_tensors of llama.cpp's converter computes them."""
    scaling = config.rope_parameters
    length = scaling["original_max_position_embeddings"]
    exponents = torch.arange(0, config.head_dim, 2) / config.head_dim
    wavelengths = 2 * torch.pi * scaling["rope_theta"] ** exponents
    smooth = (length / wavelengths - scaling["low_freq_factor"]) / (
        scaling["high_freq_factor"] - scaling["low_freq_factor"]
    )
    factors: torch.Tensor = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    factors = torch.where(wavelengths < length / scaling["high_freq_factor"], 1.0, factors)
    factors = torch.where(wavelengths > length / scaling["low_freq_factor"], scaling["factor"], factors)
    return np.ascontiguousarray(factors.float().numpy())
