"""A script that converts a GGUF file to a Hugging Face directory: export_checkpoint.py FILE DIRECTORY.

It runs in a peer's environment, with that environment's transformers. Weights become float32 with the file's exact values.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def export(file: Path, target: Path) -> None:
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # transformers refuses to save a model that it read from a quantized file, though its weights are plain now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
