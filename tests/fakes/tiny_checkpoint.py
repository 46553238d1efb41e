"""A safetensors directory that store and gateway accept as a tiny Llama: description, tokenizer, template and empty weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE

_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "eos_token_id": 0,
}


def write_tiny_checkpoint(directory: Path, generation_config: Mapping[str, Any]) -> Path:
    """Write the directory and return it. Token ids are bytes."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(_CONFIG))
    (directory / "generation_config.json").write_text(json.dumps(generation_config))
    weights = {"model.embed_tokens.weight": (256, 64), "layers": (1200, 64)}
    tensors = {name: np.zeros(shape, dtype=np.float16) for name, shape in weights.items()}
    save_file(tensors, directory / "model.safetensors")
    write_tiny_tokenizer(directory)
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return directory


def write_complete_checkpoint(directory: Path, *, num_files: int = 1, seed: int = 0) -> Path:
    """Write a directory with all the tensors of the model, in several files with an index if `num_files` is larger than 1."""
    write_tiny_checkpoint(directory, {"eos_token_id": 0})
    generator = np.random.default_rng(seed)
    layer = "model.layers.0"
    matrices = {f"{layer}.self_attn.{each}_proj": (64 if each in "qo" else 32, 64) for each in "qkvo"}
    matrices |= {f"{layer}.mlp.{each}_proj": shape for each, shape in (("gate", (128, 64)), ("up", (128, 64)))}
    matrices |= {f"{layer}.mlp.down_proj": (64, 128), "model.embed_tokens": (256, 64), "lm_head": (256, 64)}
    tensors = {name: generator.standard_normal(shape, dtype=np.float32) / 8 for name, shape in matrices.items()}
    norms = (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm")
    tensors |= {name: np.ones(64, dtype=np.float32) for name in norms}
    (directory / "config.json").write_text(json.dumps({**_CONFIG, "rms_norm_eps": 1e-5}))
    (directory / "model.safetensors").unlink()
    names = [f"model-{number + 1:05}-of-{num_files:05}.safetensors" for number in range(num_files)]
    names = ["model.safetensors"] if num_files == 1 else names
    weight_map = {f"{name}.weight": names[place % num_files] for place, name in enumerate(tensors)}
    for file_name in names:
        inside = {f"{name}.weight": tensors[name] for name in tensors if weight_map[f"{name}.weight"] == file_name}
        save_file(inside, directory / file_name)
    if num_files > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return directory


def write_tiny_tokenizer(directory: Path) -> None:
    """Write a tokenizer whose ids are bytes."""
    tokenizer = Tokenizer(models.BPE({character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(directory / "tokenizer.json"))
