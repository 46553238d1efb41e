"""Products of small integers whose sums are exact, by whichever library of this machine does that fastest.

Activations are integers in [-64, 64] and weights in [-127, 127], both held as floats or int8. A product of two vectors of
length I is below 2^13 * I: exact in int32 for I < 2^18, in float64 for any I and in float32 for I up to 2064, whatever the
order of the sum. It is then rounded once to float32. So all implementations give the same bits.

The range of the activations is what x86 without VNNI allows: there two neighbouring products of unsigned and signed bytes
are added in 16 bits, and 2 * 128 * 127 still fits.
"""

import warnings
from typing import Any, Protocol

import torch

MAX_ACTIVATION = 64
MAX_WEIGHT = 127
MAX_INNER = 1 << 18
"""Longest inner dimension."""


class ExactMatmul(Protocol):
    """The matrix is packed once, and opaque to everyone else."""

    name: str

    def pack(self, weight_OI: torch.Tensor) -> Any:
        """Integers as int8 [O, I]."""

    def multiply(self, x_XI: torch.Tensor, packed: Any) -> torch.Tensor:
        """Integers as float32 [X, I], times the matrix: float32 [X, O]."""


class FbgemmMatmul:
    """x86: int8 with sums in int32. The operator takes floats; at scale 1 its quantization changes no integer."""

    name = "fbgemm"

    def pack(self, weight_OI: torch.Tensor) -> Any:
        num_out = weight_OI.shape[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(
                weight_OI, torch.ones(num_out, dtype=torch.float64), torch.zeros(num_out, dtype=torch.int64), 0
            )
            engine = torch.backends.quantized.engine
            torch.backends.quantized.engine = "fbgemm"
            try:
                return torch.ops.quantized.linear_prepack(quantized, None)
            finally:
                torch.backends.quantized.engine = engine

    def multiply(self, x_XI: torch.Tensor, packed: Any) -> torch.Tensor:
        result: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x_XI, 1.0, MAX_ACTIVATION, packed
        )
        return result


class FloatMatmul:
    """Anywhere: floats that hold each sum exactly. Four or eight times the memory of int8, and slower."""

    name = "float"

    def pack(self, weight_OI: torch.Tensor) -> Any:
        fits_float32 = weight_OI.shape[1] * MAX_ACTIVATION * MAX_WEIGHT <= 1 << 24
        return weight_OI.to(torch.float32 if fits_float32 else torch.float64)

    def multiply(self, x_XI: torch.Tensor, packed: Any) -> torch.Tensor:
        weight_OI: torch.Tensor = packed
        return (x_XI.to(weight_OI.dtype) @ weight_OI.T).float()


def select_exact_matmul() -> ExactMatmul:
    """FBGEMM where it is present and exact at the corners of the range, else floats."""
    if "fbgemm" in torch.backends.quantized.supported_engines and _is_exact(FbgemmMatmul()):
        return FbgemmMatmul()
    return FloatMatmul()


def _is_exact(matmul: ExactMatmul) -> bool:
    x_XI = torch.full((3, 256), float(MAX_ACTIVATION))
    x_XI[1] = -MAX_ACTIVATION
    x_XI[2, ::2] = -MAX_ACTIVATION
    weight_OI = torch.full((32, 256), MAX_WEIGHT, dtype=torch.int8)
    weight_OI[1::2] = -MAX_WEIGHT
    exact = FloatMatmul()
    return torch.equal(matmul.multiply(x_XI, matmul.pack(weight_OI)), exact.multiply(x_XI, exact.pack(weight_OI)))
