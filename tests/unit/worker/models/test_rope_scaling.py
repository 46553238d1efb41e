"""Tests of rope scalings against transformers: the frequencies, the factor of cosines and sines, and logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats import hf_config
from pagoda.models.formats.description import describe
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import (
    FAMILIES,
    LONG_FACTORS,
    SHORT_FACTORS,
    VOCAB_SIZE,
    make_model,
    reference_logits,
    save_safetensors,
)
from worker.kernels.reference import ReferenceKernels
from worker.layers.rope import RopeTable, dependence_on_length, rope_frequencies
from worker.models.families import load_model

ORIGINAL = 32
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "short_factor": [1.0 + i / 8 for i in range(8)],
    "long_factor": [1.0 + i * i for i in range(8)],
    "original_max_position_embeddings": 4096,
}
TOKEN_IDS = [(7 * i * i + 3 * i) % VOCAB_SIZE for i in range(77)]


def write_config(directory: Path, rope: dict[str, Any], **changes: Any) -> Any:
    """Write a config.json of a small Llama and return transformers' object for it."""
    content = {
        **{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4},
        **{"num_hidden_layers": 1, "intermediate_size": 64, "max_position_embeddings": 16384, "rope_theta": 10_000.0},
        **{"rope_scaling": rope, **changes},
    }
    (directory / "config.json").write_text(json.dumps(content))
    return transformers.AutoConfig.from_pretrained(directory)


@pytest.mark.parametrize(
    "rope",
    [
        YARN,
        {**YARN, "factor": 40.0, "original_max_position_embeddings": 512},
        {**YARN, "type": "yarn", "rope_theta": 1e6, "beta_fast": 8, "beta_slow": 2.5},
        {**YARN, "truncate": False},
        {**YARN, "attention_factor": 0.7},
        {**YARN, "mscale": 1.0, "mscale_all_dim": 0.707},
        {**YARN, "mscale": 1.0},
        {**YARN, "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 2048},
        {"rope_type": "yarn", "factor": 2.0},
        LONGROPE,
        {**LONGROPE, "attention_factor": 1.25},
        {**LONGROPE, "factor": 32.0},
        {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "linear", "factor": 4.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("served", [2048, 16384, 50_000])
def test_frequencies_are_those_of_transformers(rope: dict[str, Any], served: int, tmp_path: Path) -> None:
    theirs = write_config(tmp_path, rope)
    expected, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, seq_len=served)
    ours = hf_config.read_config(tmp_path)
    scaling = ours.rope_scaling
    assert scaling is not None
    frequencies = rope_frequencies(16, ours.rope_theta, scaling, served)
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert scaling.attention_factor == pytest.approx(factor, rel=1e-12)


def test_cosines_and_sines_have_the_attention_factor() -> None:
    frequencies = rope_frequencies(16, 10_000.0)
    plain, scaled = (RopeTable.make(frequencies, 50, torch.device("cpu"), factor) for factor in (1.0, 1.5))
    assert torch.equal(scaled.cos_PH, plain.cos_PH * 1.5)
    assert torch.equal(scaled.sin_PH, plain.sin_PH * 1.5)


@pytest.mark.parametrize(
    ("rope", "longest"),
    [
        (YARN, 16384),
        ({**YARN, "factor": 16.0}, 65536),
        ({"rope_type": "dynamic", "factor": 4.0}, 65536),
        ({"rope_type": "dynamic", "factor": 1e6}, 1 << 20),
        ({"rope_type": "linear", "factor": 4.0}, 16384),
        (LONGROPE, 16384),
    ],
    ids=str,
)
def test_a_scaling_may_extend_the_context(rope: dict[str, Any], longest: int, tmp_path: Path) -> None:
    write_config(tmp_path, rope)
    assert hf_config.read_config(tmp_path).max_position == longest


@pytest.mark.parametrize(
    ("served", "factors", "suffix"), [(32, SHORT_FACTORS, "-short-rope"), (33, LONG_FACTORS, "-long-rope")]
)
def test_longrope_goes_by_the_served_length(served: int, factors: list[float], suffix: str, tmp_path: Path) -> None:
    """The reference always has these factors, because transformers would choose them by each sequence's length."""
    family = FAMILIES["longrope"]
    rope = {**family.config["rope_parameters"], "short_factor": factors, "long_factor": factors}
    theirs = make_model(family, rope_parameters=rope)
    expected = reference_logits(theirs, TOKEN_IDS[:served])
    model = save_safetensors(make_model(family), tmp_path)
    kernels = ReferenceKernels()
    logits = SteppedModel(load_model(model, kernels, served), kernels).run("a", TOKEN_IDS[:served], [20, 1])
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4
    assert dependence_on_length(model.config.rope_scaling, served) == suffix


@pytest.mark.parametrize("served", [40, 77])
def test_dynamic_scaling_goes_by_the_served_length(served: int, tmp_path: Path) -> None:
    """Transformers uses the length of the sequence, which is the served length here."""
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    theirs = make_model(FAMILIES["mistral"], rope_parameters=rope, max_position_embeddings=ORIGINAL)
    expected = reference_logits(theirs, TOKEN_IDS[:served])
    model = save_safetensors(theirs, tmp_path)
    kernels = ReferenceKernels()
    logits = SteppedModel(load_model(model, kernels, served), kernels).run("a", TOKEN_IDS[:served], [20, 1])
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-4
    assert dependence_on_length(model.config.rope_scaling, served) == f"-rope-{served}"
    assert dependence_on_length(model.config.rope_scaling, ORIGINAL) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"long_factor": [1.0] * 7}, r"needs 8 short and long factors, .* \(got 7\)"),
        ({"long_factor": ["1"] * 8}, r"'long_factor' .* must be a positive number"),
        ({"short_factor": None}, r"'short_factor' .* must be a list of numbers"),
        ({"rope_type": "linear", "factor": 1e9}, "must be at most 1048576"),
        ({"rope_type": "yarn", "long_factor": None, "factor": 2.0, "beta_fast": 1e308}, r"from 1e-30 to 1e\+30"),
        ({"rope_type": "yarn", "long_factor": None, "factor": 2.0, "beta_slow": 1e-320}, r"from 1e-30 to 1e\+30"),
        ({"rope_type": "yarn", "long_factor": None, "factor": 2.0, "rope_theta": 1.0}, "a rotary base above 1"),
    ],
    ids=str,
)
def test_what_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rope = {**LONGROPE, **change}
    theirs = make_model(FAMILIES["llama3"])
    theirs.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "rope_parameters": None, "rope_scaling": rope}))
    with pytest.raises(ModelFormatError, match=message):
        describe("tiny", tmp_path, digest="0" * 64, size_bytes=1)
