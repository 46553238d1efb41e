"""Tests of the estimate of served weights, where files have more than what is served."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from pagoda.models.formats.description import describe
from pagoda.models.formats.served_bytes import served_weights_bytes
from tests.fakes.tiny_checkpoint import write_complete_checkpoint


def estimate(directory: Path) -> int:
    return served_weights_bytes(describe("tiny", directory, digest="0" * 64, size_bytes=1))


def test_the_vision_part_of_a_checkpoint_does_not_count(tmp_path: Path) -> None:
    directory = write_complete_checkpoint(tmp_path / "model")
    text_alone = estimate(directory)
    text = json.loads((directory / "config.json").read_text()) | {"model_type": "llama"}
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": text}
    (directory / "config.json").write_text(json.dumps(config))
    tensors = load_file(directory / "model.safetensors")
    assert estimate(directory) == text_alone
    tensors["model.vision_tower.weight"] = np.zeros((64, 64), dtype=np.float32)
    save_file(tensors, directory / "model.safetensors")
    assert estimate(directory) == text_alone
