"""Tests of quantized checkpoints of whole models against transformers' logits of the same weights as floats."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from pagoda.models.formats.quantization.config import quantization_of
from pagoda.models.formats.quantization.linears import join_tensors
from pagoda.models.formats.safetensors_file import SafetensorsTensor
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.memory_need import memory_need
from tests.kernels.quantized_linears import DTYPES, load
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_families import FAMILIES, make_model
from tests.kernels.tiny_llama import make_llama, reference_logits
from tests.kernels.tiny_quantized import (
    CONFIGS,
    Packer,
    awq,
    compressed_config,
    fp8,
    gptq,
    int8,
    pack_quantized,
    save_quantized,
)
from worker.kernels.integer import IntegerKernels
from worker.kernels.interface import Kernels
from worker.kernels.reference import ReferenceKernels
from worker.models.families import load_model
from worker.weights.checkpoint import WeightsError
from worker.weights.quantized.stored_linear import stored_linear

MAX_RELATIVE_ERROR = 1e-3
MAX_INTEGER_ERROR = 0.15
"""Maximum error of the integer mode, as a share of the logits' norm. Tiny random models depend on the last bits of every weight."""
TOKEN_IDS = [(7 * i * i + 3 * i) % 131 for i in range(40)]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "head_dim": 32}
AWQ, GPTQ = CONFIGS["awq"], CONFIGS["gptq"]
GROUPS = {"strategy": "group", "group_size": 32}

CASES: dict[str, tuple[dict[str, Any], Packer, str]] = {
    "awq": (AWQ, awq, "AWQ-INT4"),
    "awq, group 128": (AWQ | {"group_size": 128}, partial(awq, group_size=128), "AWQ-INT4"),
    "awq, one group, older keys": (
        {"quant_method": "awq", "w_bit": 4, "q_group_size": -1, "zero_point": True, "version": "GEMM"},
        partial(awq, group_size=None),
        "AWQ-INT4",
    ),
    "awq, bfloat16": (AWQ, partial(awq, dtype=torch.bfloat16), "AWQ-INT4"),
    "gptq": (GPTQ, gptq, "GPTQ-INT4"),
    "gptq, symmetric": (GPTQ | {"sym": True}, partial(gptq, symmetric=True), "GPTQ-INT4"),
    "gptq v2": (GPTQ | {"checkpoint_format": "gptq_v2"}, partial(gptq, is_v2=True), "GPTQ-INT4"),
    "gptq, 8 bits": (GPTQ | {"bits": 8}, partial(gptq, bits=8), "GPTQ-INT8"),
    "gptq, one group": (GPTQ | {"group_size": -1}, partial(gptq, group_size=None), "GPTQ-INT4"),
    "gptq, act-order": (GPTQ | {"desc_act": True}, partial(gptq, act_order=True), "GPTQ-INT4"),
    "gptq, act-order, 8 bits": (
        GPTQ | {"desc_act": True, "bits": 8, "group_size": 64},
        partial(gptq, act_order=True, bits=8, group_size=64),
        "GPTQ-INT8",
    ),
    "w4a16": (compressed_config("pack-quantized", num_bits=4, **GROUPS), pack_quantized, "W4A16"),
    "w4a16, zeros": (
        compressed_config("pack-quantized", num_bits=4, symmetric=False, **GROUPS),
        partial(pack_quantized, symmetric=False),
        "W4A16",
    ),
    "w4a16, channels": (
        compressed_config("pack-quantized", num_bits=4, strategy="channel"),
        partial(pack_quantized, group_size=None),
        "W4A16",
    ),
    "w4a16, act-order": (
        compressed_config("pack-quantized", num_bits=4, actorder="group", **GROUPS),
        partial(pack_quantized, act_order=True),
        "W4A16",
    ),
    "w8a16": (compressed_config("pack-quantized", num_bits=8, **GROUPS), partial(pack_quantized, bits=8), "W8A16"),
    "w8a8": (compressed_config("int-quantized", num_bits=8, strategy="channel"), int8, "W8A8"),
    "w8a8, zeros": (
        compressed_config("int-quantized", num_bits=8, strategy="channel", symmetric=False),
        partial(int8, symmetric=False),
        "W8A8",
    ),
    "fp8 of compressed-tensors": (
        compressed_config("float-quantized", num_bits=8, type="float", strategy="channel"),
        fp8,
        "FP8",
    ),
    "fp8, one scale": ({"quant_method": "fp8", "activation_scheme": "static"}, partial(fp8, per_row=False), "FP8"),
    "fp8, blocks": (
        {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
        partial(fp8, block=(128, 128)),
        "FP8",
    ),
    "fbgemm fp8": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, fp8, "FP8"),
}


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def run(model: Any, kernels: Kernels) -> torch.Tensor:
    return SteppedModel(load_model(model, kernels), kernels).run("a", TOKEN_IDS, None)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    config, pack, label = CASES[case]
    llama = make_llama(**SIZES)
    model = save_quantized(llama, tmp_path, config, pack)
    check_tensors(model)
    assert model.quantization == label
    assert model.num_parameters == sum(parameter.numel() for parameter in llama.parameters())
    expected = reference_logits(llama, TOKEN_IDS)
    assert relative_error(run(model, ReferenceKernels()), expected) < MAX_RELATIVE_ERROR
    assert relative_error(run(model, IntegerKernels()), expected) < MAX_INTEGER_ERROR


@pytest.mark.parametrize("family", ["qwen2", "phi3", "qwen3"])
@pytest.mark.parametrize("pack", [awq, partial(gptq, act_order=True)], ids=["awq", "gptq"])
def test_other_families_agree_with_transformers(family: str, pack: Packer, tmp_path: Path) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8}
    original = make_model(FAMILIES[family], **sizes)
    model = save_quantized(original, tmp_path, AWQ if pack is awq else GPTQ, pack)
    check_tensors(model)
    expected = reference_logits(original, TOKEN_IDS)
    assert relative_error(run(model, ReferenceKernels()), expected) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize("leave_out", [("down_proj",), ("layers.0.", "q_proj")], ids=str)
def test_some_linears_may_be_floats(leave_out: tuple[str, ...], tmp_path: Path) -> None:
    llama = make_llama(**SIZES)
    config = AWQ | {"modules_to_not_convert": list(leave_out)}
    model = save_quantized(llama, tmp_path, config, awq, leave_out=leave_out)
    check_tensors(model)
    expected = reference_logits(llama, TOKEN_IDS)
    assert relative_error(run(model, ReferenceKernels()), expected) < MAX_RELATIVE_ERROR
    assert relative_error(run(model, IntegerKernels()), expected) < MAX_INTEGER_ERROR


def test_the_output_may_be_quantized(tmp_path: Path) -> None:
    llama = make_llama(**SIZES | {"vocab_size": 136})
    model = save_quantized(llama, tmp_path, GPTQ | {"lm_head": True}, gptq, packs_output=True)
    check_tensors(model)
    assert relative_error(run(model, ReferenceKernels()), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR


def test_linears_may_have_schemes_of_their_own(tmp_path: Path) -> None:
    llama = make_llama(**SIZES)
    config = GPTQ | {"dynamic": {r"-:.*\.0\..*": {}, r"+:.*\.mlp\..*": {"bits": 8, "group_size": 64}}}

    def pack(weight: torch.Tensor) -> Any:
        is_mlp = 256 in weight.shape
        return gptq(weight, bits=8, group_size=64) if is_mlp else gptq(weight)

    model = save_quantized(llama, tmp_path, config, pack, leave_out=("layers.0.",))
    check_tensors(model)
    assert relative_error(run(model, ReferenceKernels()), reference_logits(llama, TOKEN_IDS)) < MAX_RELATIVE_ERROR


@pytest.mark.parametrize(("pack", "config", "bits"), [(awq, AWQ, 5.0), (gptq, GPTQ, 5.2)], ids=["awq", "gptq"])
def test_the_estimate_of_memory_is_of_the_quantized_size(
    pack: Packer, config: dict[str, Any], bits: float, tmp_path: Path
) -> None:
    model = save_quantized(make_llama(**SIZES), tmp_path, config, pack)
    in_linears = 3 * (128 * (128 + 2 * 64 + 128) + 3 * 128 * 256)
    outside = 131 * 128 * (2 + 8.5 / 8) + 7 * 128 * 4
    assert memory_need(model).weights_bytes < in_linears * bits / 8 + outside


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_bias_of_an_expert_must_be_zero(bias: float) -> None:
    parts = gptq(torch.randn(64, 64))[0] | {"bias": torch.full((64,), bias, dtype=torch.float16)}
    tensors = {
        f"model.layers.0.mlp.experts.3.up_proj.{part}": SafetensorsTensor(
            dtype=DTYPES[each.dtype], shape=tuple(each.shape), path=Path("/"), offset=0
        )
        for part, each in parts.items()
    }
    joined = join_tensors(tensors, quantization_of({"quantization_config": GPTQ}))
    assert not joined.plain
    (linear,) = joined.linears.values()
    if bias:
        with pytest.raises(WeightsError, match="its bias must be zero"):
            stored_linear(linear, parts, None)
    else:
        weight = stored_linear(linear, parts, None).dequantize()
        del parts["bias"]
        assert torch.equal(weight, load(GPTQ, parts).dequantize())
