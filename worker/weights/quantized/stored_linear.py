"""Makes the stored weight of a quantized linear from the tensors of a checkpoint."""

from collections.abc import Mapping

import torch

from pagoda.models.formats.quantization.linears import QuantizedLinear
from pagoda.models.formats.quantization.scheme import Layout
from worker.weights.checkpoint import WeightsError
from worker.weights.linear_format import StoredWeight
from worker.weights.quantized.float8 import Float8Format
from worker.weights.quantized.integers import IntegerFormat, has_zeros, input_order


def stored_linear(
    linear: QuantizedLinear, parts: Mapping[str, torch.Tensor], row_order_O: torch.Tensor | None
) -> StoredWeight:
    """Return the weight. Raises WeightsError if the tensors contradict each other."""
    scheme, shape = linear.scheme, linear.shape
    if "bias" in parts:
        if bool(parts["bias"].any()):
            raise WeightsError("its bias must be zero, since a mixture's linears have none")
        parts = {name: part for name, part in parts.items() if name != "bias"}
    if scheme.layout is Layout.FLOAT8:
        return StoredWeight(format=Float8Format(scheme), shape=shape, parts=parts, row_order_O=row_order_O)
    if "weight_shape" in parts and tuple(parts["weight_shape"].tolist()) != shape:
        raise WeightsError(f"its weight_shape must be {list(shape)} (got {parts['weight_shape'].tolist()})")
    return StoredWeight(
        format=IntegerFormat(scheme, has_zeros(scheme, parts, shape[0])),
        shape=shape,
        parts=parts,
        row_order_O=row_order_O,
        input_order_I=input_order(scheme, parts, shape[1]),
    )
