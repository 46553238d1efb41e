"""Tiny random Llama checkpoints, made with transformers, and GGUF files with the same weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pagoda.models.formats.description import describe
from pagoda.models.model import Model, ModelFormat

GGUF_LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def make_llama(**changes: Any) -> Any:
    """Make a model with random weights, large enough that its logits are far from uniform."""
    settings: dict[str, Any] = {
        "vocab_size": 131,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings | changes)).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.normal_(std=0.2)
    return model


def save_safetensors(llama: Any, directory: Path, *, max_shard_size: str = "1GB") -> Model:
    llama.save_pretrained(directory, max_shard_size=max_shard_size)
    return describe("tiny", directory, digest="0" * 64, size_bytes=1)


def save_gguf(llama: Any, model: Model, path: Path, dtype: Any) -> Model:
    """Write the tensors of `llama` with GGUF's names and order of rows; return `model`, described as that file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(model.config.num_layers)
    for name, tensor in llama.state_dict().items():
        if name != "lm_head.weight" or not model.config.tie_word_embeddings:
            array = _interleave(name, tensor, model).contiguous().numpy()
            stored = array if array.ndim == 1 else gguf.quants.quantize(array, dtype)
            writer.add_tensor(_gguf_name(name), stored, raw_dtype=None if array.ndim == 1 else dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return replace(model, path=path, format=ModelFormat.GGUF)


def reference_logits(llama: Any, token_ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = llama(torch.tensor([token_ids])).logits[0]
    return logits


def round_weights(llama: Any, rounding: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    """Replace the matrices by their values after rounding."""
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                parameter.copy_(torch.from_numpy(rounding(parameter.numpy())))


def _gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        return {
            "model.embed_tokens.weight": "token_embd.weight",
            "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }[name]
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    for theirs, ours in GGUF_LAYER_NAMES.items():
        if rest.startswith(theirs):
            return f"blk.{number}.{ours}{rest.removeprefix(theirs)}"
    raise AssertionError(f"no GGUF name for {name}")


def _interleave(name: str, tensor: torch.Tensor, model: Model) -> torch.Tensor:
    """Return queries and keys in the order of llama.cpp's converter (LlamaModel.permute)."""
    if "q_proj" not in name and "k_proj" not in name:
        return tensor
    num_heads = model.config.num_heads if "q_proj" in name else model.config.num_kv_heads
    halves = tensor.view(num_heads, 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)
