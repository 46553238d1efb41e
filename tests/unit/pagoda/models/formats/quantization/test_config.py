"""Tests of reading `quantization_config`: supported methods, and the sentences for all others."""

import json
from pathlib import Path
from typing import Any

import pytest

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.quantization.config import quantization_of, read_quantization
from pagoda.models.formats.quantization.scheme import Layout

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}


def compressed(name: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": WEIGHTS | weights}
    return {"quant_method": "compressed-tensors", "format": name, "config_groups": {"group_0": group}}


def test_a_checkpoint_of_floats_has_none() -> None:
    assert quantization_of({}) is None
    assert quantization_of({"quantization_config": None}) is None


def test_the_older_key_of_compressed_tensors() -> None:
    config = compressed()
    del config["quant_method"]
    read = quantization_of({"compression_config": config})
    assert read is not None
    assert (read.label, read.scheme.layout, read.scheme.group_size) == ("W4A16", Layout.PACKED, 128)


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False, "sym": True}, "GPTQ-INT4"),
        ("quantize_config.json", {"bits": 4, "group_size": 128, "quant_method": "awq"}, "AWQ-INT4"),
        ("quant_config.json", {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}, "AWQ-INT4"),
    ],
)
def test_older_checkpoints_say_it_in_a_file_of_its_own(
    name: str, content: dict[str, Any], label: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_text(json.dumps(content))
    read = read_quantization(tmp_path)
    assert read is not None
    assert (read.label, read.scheme.bits, read.scheme.group_size) == (label, 4, 128)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": GPTQ | {"bits": 8}}))
    read = read_quantization(tmp_path)
    assert read is not None
    assert read.label == "GPTQ-INT8"


def test_a_separate_file_is_held_to_the_same_rules(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 3, "group_size": 128}))
    with pytest.raises(ModelFormatError, match="by GPTQ with 3 bits"):
        read_quantization(tmp_path)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_multimodal_checkpoint_says_it_beside_the_parts(key: str, tmp_path: Path) -> None:
    config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": {}, key: compressed()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = read_quantization(tmp_path)
    assert read is not None
    assert read.label == "W4A16"


def test_groups_of_linears_have_schemes_of_their_own() -> None:
    config = compressed()
    other = {"targets": [r"re:.*down_proj", "model.layers.0.mlp.up_proj"], "weights": WEIGHTS | {"num_bits": 8}}
    config["config_groups"]["group_1"] = other
    read = quantization_of({"quantization_config": config})
    assert read is not None
    assert read.scheme.bits == 4
    assert [(pattern, scheme.bits) for pattern, scheme in read.schemes] == [
        (".*down_proj", 8),
        (r"model\.layers\.0\.mlp\.up_proj$", 8),
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("awq", "quantized by an unknown method .*supported: AWQ .4 bits., GPTQ and compressed-tensors .* FP8"),
        ({"bits": 4}, "quantized by an unknown method .quantization_config. are not supported"),
        (
            {"quant_method": "bitsandbytes"},
            "weights quantized with bitsandbytes .* use the original model, or a GGUF file",
        ),
        ({"quant_method": "mxfp4"}, "with mxfp4"),
        (AWQ | {"bits": 8}, "by AWQ with 8 bits .*supported: 4 bits"),
        (AWQ | {"version": "gemv"}, "by AWQ with version 'gemv' .*supported: gemm"),
        (AWQ | {"group_size": 16}, "group_size 16 .* multiples of 32, and -1"),
        (GPTQ | {"bits": 3}, "by GPTQ with 3 bits .*supported: 4 bits or 8 bits"),
        (GPTQ | {"bits": True}, "by GPTQ with True bits"),
        (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format 'marlin' .* gptq and gptq_v2"),
        (GPTQ | {"dynamic": {r"+:(a+)+": {"bits": 8}}}, "pattern .* is not supported: it is invalid, longer than"),
        (GPTQ | {"dynamic": {"+:(": {"bits": 8}}}, "pattern .* is not supported"),
        (GPTQ | {"dynamic": ["a"]}, "dynamic .* must be an object"),
        (compressed(num_bits=2), "by compressed-tensors with 2 bits"),
        (compressed(strategy="token"), "strategy 'token'"),
        (compressed("marlin-24"), "format 'marlin-24' with int weights and strategy group"),
        (compressed("nvfp4-pack-quantized", type="float"), "format 'nvfp4-pack-quantized' with float weights"),
        (compressed() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity format 'sparse-24-bitmask'"),
        (compressed() | {"sparsity_config": ["x"]}, r"sparsity format .*supported: dense"),
        (GPTQ | {"desc_act": "yes"}, "'desc_act' .* must be true or false .got 'yes'"),
        (compressed() | {"config_groups": {}}, "config_groups .* must be an object of objects"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "block size .* two positive whole numbers"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "by FP8 with fmt 'e5m2'"),
    ],
)
def test_what_is_not_supported(config: Any, message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        quantization_of({"quantization_config": config})
