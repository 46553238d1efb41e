"""Tests of the Llama family against transformers in float32, with pages, file formats and variants of the architecture."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from pagoda.models.model import Model
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_llama import make_llama, reference_logits, round_weights, save_gguf, save_safetensors
from worker.errors import StepError
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels
from worker.models.families import UnsupportedArchitectureError, load_model

MAX_RELATIVE_ERROR = 1e-3
MAX_INTEGER_ERROR = 0.1
"""Maximum error of the integer mode, as a share of the logits' root mean square. Tiny random models depend on the last bits of
every weight."""
TOKEN_IDS = [(7 * i * i + 3 * i) % 131 for i in range(75)]
CHUNKINGS = [None, [16], [7], [40, 1], [1]]

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped-query": {},
    "multi-head": {"num_key_value_heads": 6},
    "multi-query": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3-rope": {"rope_parameters": LLAMA3_ROPE},
    "linear-rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}},
    "wide-heads": {"head_dim": 32},
}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def relative_rms_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def run(model: Model, kernels: Kernels, chunks: list[int] | None = None) -> torch.Tensor:
    stepped = SteppedModel(load_model(model, kernels), kernels)
    stepped.shuffle(seed=1)
    return stepped.run("a", TOKEN_IDS, chunks)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32_agrees_with_transformers(variant: str, tmp_path: Path) -> None:
    llama = make_llama(**VARIANTS[variant])
    model = save_safetensors(llama, tmp_path)
    assert relative_error(run(model, ReferenceKernels()), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("variant", VARIANTS)
def test_integer_mode_agrees_with_transformers(variant: str, tmp_path: Path) -> None:
    llama = make_llama(**VARIANTS[variant])
    integer = run(save_safetensors(llama, tmp_path), IntegerKernels())
    assert relative_rms_error(integer, reference_logits(llama, TOKEN_IDS)) < MAX_INTEGER_ERROR


@pytest.mark.parametrize("chunks", CHUNKINGS, ids=str)
def test_chunks_and_decodes_agree_with_transformers(chunks: list[int] | None, tmp_path: Path) -> None:
    llama = make_llama()
    model = save_safetensors(llama, tmp_path)
    assert (
        relative_error(run(model, ReferenceKernels(), chunks), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR
    )


def test_sharded_checkpoint_agrees_with_transformers(tmp_path: Path) -> None:
    llama = make_llama()
    model = save_safetensors(llama, tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert relative_error(run(model, ReferenceKernels()), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("variant", ["grouped-query", "multi-head", "tied", "biases"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0"])
def test_gguf_agrees_with_transformers(dtype: str, variant: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[dtype]
    # Block formats need rows of a multiple of 32.
    llama = make_llama(hidden_size=96, intermediate_size=96, head_dim=16, **VARIANTS[variant])
    described = save_safetensors(llama, tmp_path / "safetensors")
    model = save_gguf(llama, described, tmp_path / "tiny.gguf", kind)

    def store(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.array(gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind))

    round_weights(llama, store)
    assert relative_error(run(model, ReferenceKernels()), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR


def test_mixed_batch_agrees_with_transformers(tmp_path: Path) -> None:
    llama = make_llama()
    kernels = ReferenceKernels()
    stepped = SteppedModel(load_model(save_safetensors(llama, tmp_path), kernels), kernels)
    stepped.shuffle(seed=2)
    sequences = {f"s{i}": TOKEN_IDS[i : i + 20 + 3 * i] for i in range(9)}
    stepped.step([(name, tokens[:-5]) for name, tokens in sequences.items()], padding_blocks=3)
    for i in range(-5, 0):
        last = stepped.step([(name, [tokens[i]]) for name, tokens in sequences.items()])
    for logits, tokens in zip(last, sequences.values(), strict=True):
        assert relative_error(logits[0], reference_logits(llama, tokens)[-1]) < MAX_RELATIVE_ERROR


def test_no_sampled_row_gives_no_logits(tmp_path: Path) -> None:
    for kernels in (ReferenceKernels(), IntegerKernels()):
        weight = kernels.pack_linear(torch.ones(3, 4))
        assert kernels.linear(kernels.rms_norm(torch.empty(0, 4), torch.ones(4), 1e-5), weight).shape == (0, 3)


@pytest.mark.parametrize("kernels", [ReferenceKernels(), IntegerKernels()], ids=["float32", "integer"])
def test_a_position_beyond_the_models_is_refused(kernels: Kernels, tmp_path: Path) -> None:
    model = load_model(save_safetensors(make_llama(), tmp_path), kernels)
    longest = model.config.max_position
    stepped = SteppedModel(model, kernels, num_pages=2 + longest // 16)
    stepped.step([("a", [1] * longest)])
    with pytest.raises(StepError, match=f"{longest + 1} tokens, but the model's maximum is {longest}"):
        stepped.step([("a", [1])])


def test_unknown_architecture_names_the_known_ones(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    strange = replace(model, config=replace(model.config, architecture="mamba"))
    with pytest.raises(UnsupportedArchitectureError, match=r"'mamba'.*llama"):
        load_model(strange, ReferenceKernels())


def test_weights_bytes_count_what_is_held(tmp_path: Path) -> None:
    model = save_safetensors(make_llama(), tmp_path)
    num_weights = sum(parameter.numel() for parameter in make_llama().parameters())
    whole = load_model(model, ReferenceKernels()).weights_bytes
    assert whole >= 4 * num_weights
    assert load_model(model, IntegerKernels()).weights_bytes < whole
