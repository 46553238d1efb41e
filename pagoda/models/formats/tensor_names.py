"""Tables from the tensor names in checkpoints to Pagoda's own names.

{i} is a layer's number, {e} an expert's. Pagoda's names are the fields of the layers that use the tensors. The names that only
a family has, or uses for another tensor than the others, are in families/, and have precedence.
"""

import re
from collections.abc import Iterable, Mapping

from pagoda.models.formats.expert_tensors import GGUF_EXPERT_NAMES, SAFETENSORS_EXPERT_NAMES
from pagoda.models.formats.families.layer_tensors import full_names
from pagoda.models.formats.families.tables import TENSORS
from pagoda.models.formats.text_part import GGUF_OTHER_PARTS, text_tensor
from pagoda.models.model import ModelConfig

GGUF_NAMES: Mapping[str, str] = {
    "token_embd.weight": "embedding.weight",
    "output_norm.weight": "final_norm.weight",
    "output.weight": "output.weight",
    "rope_freqs.weight": "rope_factors",
    "rope_factors_long.weight": "rope_factors_long",
    "rope_factors_short.weight": "rope_factors_short",
    "blk.{i}.attn_norm.weight": "layers.{i}.attention_norm.weight",
    "blk.{i}.attn_q.weight": "layers.{i}.q.weight",
    "blk.{i}.attn_q.bias": "layers.{i}.q.bias",
    "blk.{i}.attn_k.weight": "layers.{i}.k.weight",
    "blk.{i}.attn_k.bias": "layers.{i}.k.bias",
    "blk.{i}.attn_v.weight": "layers.{i}.v.weight",
    "blk.{i}.attn_v.bias": "layers.{i}.v.bias",
    "blk.{i}.attn_qkv.weight": "layers.{i}.qkv.weight",
    "blk.{i}.attn_qkv.bias": "layers.{i}.qkv.bias",
    "blk.{i}.attn_output.weight": "layers.{i}.o.weight",
    "blk.{i}.attn_output.bias": "layers.{i}.o.bias",
    "blk.{i}.attn_q_norm.weight": "layers.{i}.q_norm.weight",
    "blk.{i}.attn_k_norm.weight": "layers.{i}.k_norm.weight",
    "blk.{i}.post_attention_norm.weight": "layers.{i}.after_attention_norm.weight",
    "blk.{i}.ffn_norm.weight": "layers.{i}.mlp_norm.weight",
    "blk.{i}.ffn_gate.weight": "layers.{i}.gate.weight",
    "blk.{i}.ffn_gate.bias": "layers.{i}.gate.bias",
    "blk.{i}.ffn_up.weight": "layers.{i}.up.weight",
    "blk.{i}.ffn_up.bias": "layers.{i}.up.bias",
    "blk.{i}.ffn_down.weight": "layers.{i}.down.weight",
    "blk.{i}.ffn_down.bias": "layers.{i}.down.bias",
    "blk.{i}.post_ffw_norm.weight": "layers.{i}.after_mlp_norm.weight",
}

SAFETENSORS_NAMES: Mapping[str, str] = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "final_norm.weight",
    "lm_head.weight": "output.weight",
    "model.layers.{i}.input_layernorm.weight": "layers.{i}.attention_norm.weight",
    "model.layers.{i}.self_attn.q_proj.weight": "layers.{i}.q.weight",
    "model.layers.{i}.self_attn.q_proj.bias": "layers.{i}.q.bias",
    "model.layers.{i}.self_attn.k_proj.weight": "layers.{i}.k.weight",
    "model.layers.{i}.self_attn.k_proj.bias": "layers.{i}.k.bias",
    "model.layers.{i}.self_attn.v_proj.weight": "layers.{i}.v.weight",
    "model.layers.{i}.self_attn.v_proj.bias": "layers.{i}.v.bias",
    "model.layers.{i}.self_attn.o_proj.weight": "layers.{i}.o.weight",
    "model.layers.{i}.self_attn.o_proj.bias": "layers.{i}.o.bias",
    "model.layers.{i}.self_attn.q_norm.weight": "layers.{i}.q_norm.weight",
    "model.layers.{i}.self_attn.k_norm.weight": "layers.{i}.k_norm.weight",
    "model.layers.{i}.post_attention_layernorm.weight": "layers.{i}.mlp_norm.weight",
    "model.layers.{i}.mlp.gate_proj.weight": "layers.{i}.gate.weight",
    "model.layers.{i}.mlp.gate_proj.bias": "layers.{i}.gate.bias",
    "model.layers.{i}.mlp.up_proj.weight": "layers.{i}.up.weight",
    "model.layers.{i}.mlp.up_proj.bias": "layers.{i}.up.bias",
    "model.layers.{i}.mlp.down_proj.weight": "layers.{i}.down.weight",
    "model.layers.{i}.mlp.down_proj.bias": "layers.{i}.down.bias",
}

REDUNDANT = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Pattern of buffers that old exports contain besides the weights. They can be computed from the configuration."""


NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def gguf_names(architecture: str) -> Mapping[str, str]:
    return {**GGUF_NAMES, **GGUF_EXPERT_NAMES, **dict(full_names("blk", TENSORS[architecture].gguf))}


def map_gguf_names(spelled: Iterable[str], config: ModelConfig) -> tuple[dict[str, str], list[str]]:
    """Return `map_names` of a GGUF file. Other parts of a multimodal file than its text are left out."""
    if config.is_text_part:
        spelled = [name for name in spelled if not name.startswith(GGUF_OTHER_PARTS)]
    return map_names(spelled, gguf_names(config.architecture))


def map_safetensors_names(spelled: Iterable[str], config: ModelConfig) -> tuple[dict[str, str], list[str]]:
    """Return `map_names` of a Hugging Face checkpoint. Other parts of a multimodal checkpoint than its text are left out."""
    table = safetensors_names(config.architecture)
    if not config.is_text_part:
        return map_names(spelled, table)
    spelled_of = {plain: name for name in spelled if (plain := text_tensor(name)) is not None}
    known, unknown = map_names(spelled_of, table)
    return {ours: spelled_of[plain] for ours, plain in known.items()}, [spelled_of[plain] for plain in unknown]


def safetensors_names(architecture: str) -> Mapping[str, str]:
    return {
        **SAFETENSORS_NAMES,
        **SAFETENSORS_EXPERT_NAMES,
        **dict(full_names("model.layers", TENSORS[architecture].safetensors)),
    }


def map_names(spelled: Iterable[str], table: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return a map from Pagoda's name of each tensor to the checkpoint's, and the names that are not in the table."""
    known, unknown = {}, []
    for name in spelled:
        ours = _our_name(name, table)
        if ours is not None:
            known[ours] = name
        elif not REDUNDANT.fullmatch(name):
            unknown.append(name)
    return known, unknown


def _our_name(name: str, table: Mapping[str, str]) -> str | None:
    numbers = dict(zip(("{i}", "{e}"), NUMBER.findall(name), strict=False))
    pattern = name
    for place in numbers:
        pattern = NUMBER.sub(place, pattern, count=1)
    ours = table.get(pattern)
    return None if ours is None else fill(ours, numbers)


def fill(pattern: str, numbers: Mapping[str, str]) -> str:
    for place, number in numbers.items():
        pattern = pattern.replace(place, number)
    return pattern
