"""Tests of each family against transformers in float32, from both file formats, and of the integer mode for each.

Sequences are three times as long as the sliding windows, and their pages are in random order.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import (
    FAMILIES,
    VOCAB_SIZE,
    WINDOW,
    make_model,
    reference_logits,
    save_gguf,
    save_safetensors,
)
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels
from worker.layers import rope
from worker.models.families import FAMILIES as IMPLEMENTED
from worker.models.families import load_model
from worker.weights.checkpoint import WeightsError

MAX_RELATIVE_ERROR = 1e-4
MAX_INTEGER_ERROR = 0.15
"""Maximum error as a share of the logits' root mean square. Tiny random models depend on the last bits of every weight."""
TOKEN_IDS = [(7 * i * i + 3 * i) % VOCAB_SIZE for i in range(3 * WINDOW + 5)]
OTHERS = {f"other{i}": [(i * j + 5 * j + i) % VOCAB_SIZE for j in range(15 + 11 * i)] for i in range(6)}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def run(model: Model, kernels: Kernels, chunks: list[int] | None = None) -> torch.Tensor:
    stepped = SteppedModel(load_model(model, kernels), kernels)
    stepped.shuffle(seed=1)
    return stepped.run("a", TOKEN_IDS, chunks)


def test_every_family_is_tested() -> None:
    assert {tiny.architecture for tiny in FAMILIES.values()} == set(IMPLEMENTED)


def test_each_format_names_the_architecture(family: str, tmp_path: Path) -> None:
    """Check the name itself: Qwen 3 described as Llama gives the same logits, from the same fields of ModelConfig."""
    tiny, theirs = FAMILIES[family], make_model(FAMILIES[family])
    for model in (save_safetensors(theirs, tmp_path), save_gguf(tiny, theirs, tmp_path / "tiny.gguf")):
        assert model.config.architecture == tiny.architecture


def test_agrees_with_transformers_from_safetensors(family: str, tmp_path: Path) -> None:
    theirs = make_model(FAMILIES[family])
    model, expected = save_safetensors(theirs, tmp_path), reference_logits(theirs, TOKEN_IDS)
    for chunks in (None, [40, 20, 1], [7]):
        assert relative_error(run(model, ReferenceKernels(), chunks), expected) < MAX_RELATIVE_ERROR


def test_agrees_with_transformers_from_gguf(family: str, tmp_path: Path) -> None:
    theirs = make_model(FAMILIES[family])
    model = save_gguf(FAMILIES[family], theirs, tmp_path / "tiny.gguf")
    logits = run(model, ReferenceKernels(), [40, 1])
    assert relative_error(logits, reference_logits(theirs, TOKEN_IDS)) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("family", ["chatglm", "glm4", "granite", "qwen2"])
def test_joined_queries_keys_and_values(family: str, tmp_path: Path) -> None:
    """Check the order of rows and biases in the matrix that the first converters of GLM-4 wrote."""
    theirs = make_model(FAMILIES[family])
    model = save_gguf(FAMILIES[family], theirs, tmp_path / "tiny.gguf", join_qkv=True)
    check_tensors(model)
    assert model.config.has_joined_qkv
    logits = run(model, ReferenceKernels(), [40, 1])
    assert relative_error(logits, reference_logits(theirs, TOKEN_IDS)) < MAX_RELATIVE_ERROR


def test_its_tensors_are_those_expected_from_the_headers(family: str, tmp_path: Path) -> None:
    theirs = make_model(FAMILIES[family])
    check_tensors(save_safetensors(theirs, tmp_path))
    check_tensors(save_gguf(FAMILIES[family], theirs, tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("length", [1024, 2000])
def test_longer_sequences_find_their_positions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: int) -> None:
    """Check that each position keeps its bits while the tables, which are short at first, grow."""
    model = save_safetensors(make_model(FAMILIES["gemma3"], max_position_embeddings=4096), tmp_path)
    token_ids = [(11 * i + 5) % VOCAB_SIZE for i in range(length)]

    def logits() -> torch.Tensor:
        kernels = ReferenceKernels()
        return SteppedModel(load_model(model, kernels), kernels).run("a", token_ids, [500, 600, 1])

    monkeypatch.setattr(rope, "FIRST_BYTES", 0)
    grown = logits()
    monkeypatch.setattr(rope, "FIRST_BYTES", 1 << 30)
    assert torch.equal(grown, logits())


def test_integer_mode_agrees_with_transformers(family: str, tmp_path: Path) -> None:
    theirs = make_model(FAMILIES[family])
    model, expected = save_safetensors(theirs, tmp_path), reference_logits(theirs, TOKEN_IDS)
    error = run(model, IntegerKernels()) - expected
    assert float(error.norm() / expected.norm()) < MAX_INTEGER_ERROR or model.config.experts is not None
    # In a mixture, rounded hidden states bring some tokens to other experts, with very different logits, and later tokens see them.
    assert float((error.norm(dim=1) / expected.norm(dim=1)).nanquantile(0.25)) < MAX_INTEGER_ERROR


def test_integer_mode_gives_the_same_bits_in_any_batch(family: str, tmp_path: Path) -> None:
    kernels = IntegerKernels()
    model = load_model(save_safetensors(make_model(FAMILIES[family]), tmp_path), kernels)
    alone = SteppedModel(model, kernels).run("a", TOKEN_IDS)
    for chunks in ([1], [5], [16, 40, 1]):
        assert torch.equal(SteppedModel(model, kernels).run("a", TOKEN_IDS, chunks), alone)

    stepped = SteppedModel(model, kernels, page_size=7)
    stepped.shuffle(seed=2)
    stepped.step(list(OTHERS.items()), padding_blocks=2)
    parts = []
    for step, start in enumerate(range(0, len(TOKEN_IDS), 3)):
        scheduled = [(name, [step]) for name in OTHERS]
        place = step % (len(scheduled) + 1)
        scheduled.insert(place, ("a", TOKEN_IDS[start : start + 3]))
        parts.append(stepped.step(scheduled, padding_blocks=step % 3)[place])
    assert torch.equal(torch.cat(parts), alone)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
        ("gemma2", {"query_pre_attn_scalar": 24, "attn_logit_softcapping": None}),
        ("gemma3", {"query_pre_attn_scalar": 24, "final_logit_softcapping": 5.0}),
        ("gemma3", {"sliding_window": 256}),
        ("mixtral", {"sliding_window": WINDOW}),
        ("qwen2moe", {"norm_topk_prob": True, "mlp_only_layers": [1]}),
        ("qwen2moe", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
        ("qwen3moe", {"norm_topk_prob": False, "decoder_sparse_step": 2}),
        ("qwen3moe", {"use_sliding_window": True, "sliding_window": WINDOW}),
        ("olmoe", {"norm_topk_prob": True}),
        ("phi3", {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": WINDOW}),
        ("smollm3", {"no_rope_layers": [0, 0, 1, 1, 0]}),
        ("granite", {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 1.0}),
        ("olmo3", {"sliding_window": 256, "max_position_embeddings": 256}),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 5}),
        ("chatglm", {"attention_bias": False}),
    ],
    ids=str,
)
def test_variants_agree_with_transformers(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = make_model(FAMILIES[family], **changes)
    logits = run(save_safetensors(theirs, tmp_path), ReferenceKernels())
    assert relative_error(logits, reference_logits(theirs, TOKEN_IDS)) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize(
    ("family", "missing", "name"),
    [
        ("qwen2", "self_attn.k_proj.bias", "k.bias"),
        ("qwen3", "self_attn.q_norm.weight", "q_norm.weight"),
        ("gemma2", "post_feedforward_layernorm.weight", "after_mlp_norm.weight"),
        ("phi3", "mlp.gate_up_proj.weight", "gate_up.weight"),
        ("mixtral", "block_sparse_moe.gate.weight", "router.weight"),
        ("mixtral", "block_sparse_moe.experts.3.w3.weight", "experts.3.up.weight"),
        ("qwen2moe", "mlp.shared_expert_gate.weight", "shared_gate.weight"),
        ("granitemoeshared", "shared_mlp.output_linear.weight", "shared.down.weight"),
        ("olmo2", "self_attn.k_norm.weight", "k_norm.weight"),
        ("glm4", "post_self_attn_layernorm.weight", "after_attention_norm.weight"),
    ],
)
def test_what_a_family_needs_must_be_there(family: str, missing: str, name: str, tmp_path: Path) -> None:
    model = save_safetensors(make_model(FAMILIES[family]), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"model.layers.1.{missing}"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"no tensor 'layers\.1\.{name}'"):
        load_model(model, ReferenceKernels())


def test_what_a_family_does_not_have_is_left_over(tmp_path: Path) -> None:
    model = save_safetensors(make_model(FAMILIES["gemma3"]), tmp_path)
    config = replace(model.config, qk_norm=False)
    with pytest.raises(WeightsError, match=r"does not use: model\.layers\.0\.self_attn\.k_norm\.weight"):
        load_model(replace(model, config=config), ReferenceKernels())
