"""All implementations of the exact product give the same bits, at the corners of their range too."""

import pytest
import torch

from worker.kernels.exact_matmul import (
    MAX_ACTIVATION,
    MAX_WEIGHT,
    ExactMatmul,
    FbgemmMatmul,
    FloatMatmul,
    select_exact_matmul,
)

IMPLEMENTATIONS: list[ExactMatmul] = [FloatMatmul()]
if "fbgemm" in torch.backends.quantized.supported_engines:
    IMPLEMENTATIONS.append(FbgemmMatmul())

SHAPES = [(1, 1, 1), (2, 576, 960), (7, 33, 5), (64, 1536, 576), (130, 48, 131), (5, 2064, 9), (3, 9000, 17)]
"""(rows, inner, outer); inner sizes on both sides of what float32 sums hold."""


def as_integers(x_XI: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    return (x_XI.long() @ weight_OI.long().T).float()


@pytest.mark.parametrize("matmul", IMPLEMENTATIONS, ids=lambda matmul: matmul.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_random_integers(matmul: ExactMatmul, shape: tuple[int, int, int]) -> None:
    rows, inner, outer = shape
    torch.manual_seed(0)
    x_XI = torch.randint(-MAX_ACTIVATION, MAX_ACTIVATION + 1, (rows, inner)).float()
    weight_OI = torch.randint(-MAX_WEIGHT, MAX_WEIGHT + 1, (outer, inner), dtype=torch.int8)
    assert torch.equal(matmul.multiply(x_XI, matmul.pack(weight_OI)), as_integers(x_XI, weight_OI))


@pytest.mark.parametrize("matmul", IMPLEMENTATIONS, ids=lambda matmul: matmul.name)
@pytest.mark.parametrize("inner", [64, 1536, 9000])
@pytest.mark.parametrize("sign", [-1, 1])
def test_largest_sums(matmul: ExactMatmul, inner: int, sign: int) -> None:
    x_XI = torch.full((3, inner), float(sign * MAX_ACTIVATION))
    weight_OI = torch.full((16, inner), MAX_WEIGHT, dtype=torch.int8)
    weight_OI[1::2] = -MAX_WEIGHT
    assert torch.equal(matmul.multiply(x_XI, matmul.pack(weight_OI)), as_integers(x_XI, weight_OI))


def test_a_row_of_nan_harms_no_other_row() -> None:
    matmul = select_exact_matmul()
    x_XI = torch.ones(4, 32)
    x_XI[2] = float("nan")
    sums_XO = matmul.multiply(x_XI, matmul.pack(torch.ones(8, 32, dtype=torch.int8)))
    assert torch.equal(sums_XO[[0, 1, 3]], torch.full((3, 8), 32.0))


def test_packing_leaves_the_global_engine_alone() -> None:
    before = torch.backends.quantized.engine
    select_exact_matmul().pack(torch.ones(8, 32, dtype=torch.int8))
    assert torch.backends.quantized.engine == before
