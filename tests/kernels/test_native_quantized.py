"""Tests that native kernels give the reference's bits with the weights of quantized checkpoints."""

from pathlib import Path

import pytest
import torch

from tests.kernels.native import native_kernels, same_bits
from tests.kernels.quantized_linears import CASES, load
from tests.kernels.stepping import SteppedModel
from tests.kernels.tiny_llama import make_llama
from tests.kernels.tiny_quantized import save_quantized
from worker.kernels.integer import IntegerKernels
from worker.models.families import load_model
from worker.weights.linear_format import StoredWeight

NATIVE, REFERENCE = native_kernels(), IntegerKernels()


def random_weight(case: str, num_out: int, num_in: int, seed: int = 0) -> StoredWeight:
    config, pack = CASES[case]
    return load(config, pack(torch.randn(num_out, num_in, generator=torch.Generator().manual_seed(seed)))[0])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rows", [1, 2, 7, 33])
def test_linear(case: str, rows: int) -> None:
    x_TI = torch.randn(rows, 320)
    weight = random_weight(case, 72, 320)
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weight))
    assert same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weight)))
    exact = x_TI @ weight.dequantize().T
    assert (result - exact).norm() < 0.02 * exact.norm()


def test_linears_of_several_formats_and_orders_are_computed_as_one() -> None:
    x_TI, bias_O = torch.randn(5, 320), torch.randn(8 * 72)
    first, second = (random_weight("gptq, act-order", 72, 320, seed) for seed in (0, 1))
    weights = [first, *(random_weight(case, 72, 320) for case in list(CASES)[:6]), second]
    result = NATIVE.linear(x_TI, NATIVE.pack_linear(weights, bias_O))
    assert same_bits(result, REFERENCE.linear(x_TI, REFERENCE.pack_linear(weights, bias_O)))
    exact = x_TI @ torch.cat([weight.dequantize() for weight in weights]).T + bias_O
    assert (result - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("case", ["awq", "gptq, act-order", "w8a8"])
def test_experts(case: str) -> None:
    gates, ups = ([random_weight(case, 64, 128, seed) for seed in (first, first + 1)] for first in (0, 2))
    downs = [random_weight(case, 128, 64, seed) for seed in (4, 5)]
    x_TI, router_EI = torch.randn(5, 128), torch.randn(2, 128)

    def run(kernels: IntegerKernels) -> torch.Tensor:
        router = kernels.pack_router(router_EI, 2, renormalizes=True)
        return kernels.experts(x_TI, kernels.route(x_TI, router), kernels.pack_experts(gates, ups, downs, 2))

    assert same_bits(run(NATIVE), run(REFERENCE))


@pytest.mark.parametrize("case", ["awq", "gptq, act-order", "w4a16, zeros", "fp8, blocks"])
def test_models(case: str, tmp_path: Path) -> None:
    llama = make_llama(hidden_size=128, intermediate_size=256, num_attention_heads=4, head_dim=32)
    model = save_quantized(llama, tmp_path, *CASES[case])
    native, expected = (
        SteppedModel(load_model(model, kernels), kernels).run("a", [(7 * i) % 131 for i in range(30)], [20, 1, 9])
        for kernels in (NATIVE, REFERENCE)
    )
    assert same_bits(native, expected)
