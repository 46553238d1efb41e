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
    tokenizer = Tokenizer(models.BPE({character: byte for byte, character in enumerate(CHARACTER_OF_BYTE)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return directory
