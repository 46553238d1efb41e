"""Tests of quantized linears: their exact values in any range and order of rows, and refused tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.quantization.linears import join_tensors
from pagoda.models.formats.safetensors_file import SafetensorsTensor
from tests.kernels.quantized_linears import CASES, GPTQ, join, load
from tests.kernels.tiny_quantized import gptq, pack_quantized
from worker.weights.checkpoint import WeightsError


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_in", [128, 160])
def test_values_are_those_of_the_packer(case: str, num_in: int) -> None:
    config, pack = CASES[case]
    parts, values = pack(torch.randn(72, num_in, generator=torch.Generator().manual_seed(0)))
    weight = load(config, parts)
    assert weight.shape == values.shape
    assert torch.equal(weight.dequantize(), values)
    assert torch.equal(weight.dequantize(13, 50), values[13:50])
    order = torch.randperm(72)
    assert torch.equal(load(config, parts, order).dequantize(3, 30), values[order][3:30])


def test_zeros_of_gptq_that_were_subtracted_from_whole_words() -> None:
    """A zero of 0 is stored as 15 in GPTQ's first version, and borrows from its neighbour."""
    parts, values = gptq(torch.rand(16, 64) + 0.1)
    assert torch.equal(load(GPTQ, parts).dequantize(), values)


def without(name: str) -> Any:
    return lambda parts: {part: tensor for part, tensor in parts.items() if part != name}


def with_part(name: str, change: Any) -> Any:
    return lambda parts: parts | {name: change(parts[name])}


REFUSED: Mapping[str, tuple[str, Any, str]] = {
    "no scales": ("awq", without("scales"), r"the tensor 'a.b.scales' is missing"),
    "no zeros": ("awq", without("qzeros"), r"the tensor 'a.b.qzeros' is missing"),
    "short scales": (
        "awq",
        with_part("scales", lambda x: x[1:]),
        r"'a.b.scales' must have the shape \[4, 72\] and the type F16",
    ),
    "wrong type": ("awq", with_part("qzeros", lambda x: x.float()), r"the type I32 \(got \[4, 9\] and F32\)"),
    "flat weight": ("awq", with_part("qweight", lambda x: x.flatten()), "'a.b.qweight' must be a matrix"),
    "no order": ("gptq, act-order", without("g_idx"), r"the tensor 'a.b.g_idx' is missing"),
    "short order": ("gptq", with_part("g_idx", lambda x: x[:-1]), r"'a.b.g_idx' must have the shape \[128\]"),
    "group out of range": ("gptq", with_part("g_idx", lambda x: x + 1), r"groups 0 to 3 32 times \(got .* 1 to 4\)"),
    "negative group": ("gptq", with_part("g_idx", lambda x: x - 1), r"groups 0 to 3 32 times \(got .* -1 to 2\)"),
    "uneven groups": ("gptq", with_part("g_idx", lambda x: x.clamp(max=2)), r"groups 0 to 3 32 times"),
    "other shape": ("w4a16", with_part("weight_shape", lambda x: x + 1), r"weight_shape must be \[72, 128\]"),
    "missing zeros": ("w4a16, zeros", without("weight_zero_point"), r"'a.b.weight_zero_point' is missing"),
    "scale of rows": ("w8a8", with_part("weight_scale", lambda x: x[1:]), r"the shape \[72, 1\] or \[1\]"),
    "fp8 scales": ("fp8, blocks", with_part("weight_scale_inv", lambda x: x[1:]), r"the shape \[3, 2\]"),
    "another method": (
        "awq",
        lambda parts: pack_quantized(torch.randn(72, 128))[0],
        "not quantized as quantization_con",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_damaged_tensors_are_refused(case: str) -> None:
    method, change, message = REFUSED[case]
    config, pack = CASES[method]
    with pytest.raises((ModelFormatError, WeightsError), match=message):
        load(config, change(pack(torch.randn(72, 128))[0]))


def test_quantized_tensors_without_a_configuration_are_refused() -> None:
    tensor = SafetensorsTensor(dtype="I32", shape=(8, 8), path=Path("/"), offset=0)
    with pytest.raises(ModelFormatError, match=r"'a\.qweight' is quantized, but config\.json has no"):
        join_tensors({"a.qweight": tensor}, None)


def test_scales_of_inputs_and_of_keys_are_not_tensors_of_the_model() -> None:
    config, pack = CASES["w8a8"]
    parts = pack(torch.randn(72, 128))[0] | {"input_scale": torch.ones(1), "k_scale": torch.ones(1)}
    assert not join(config, parts).plain


def test_a_bias_stays_a_tensor_of_its_own() -> None:
    config, pack = CASES["awq"]
    assert list(join(config, pack(torch.randn(72, 128))[0] | {"bias": torch.ones(72)}).plain) == ["a.b.bias"]
