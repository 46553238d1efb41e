"""Weights without a native form of their own, in blocks of a format of source/grouped.h that can hold them exactly.

Legend: O, I outputs and inputs of a linear, S spans of a row, B blocks of 32 inputs.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch

from worker.weights.grouped import BLOCK, AnyWeight, GroupedWeight
from worker.weights.linear_format import StoredWeight, stored
from worker.weights.quantized.integers import IntegerFormat

SPANS = (128, 64, 32)
MOST_IN_FOUR_BITS = 15


def exact_format(weight: StoredWeight) -> str | None:
    """Return the smallest format that holds the weight of a quantized checkpoint. None for others, whose integers decide."""
    kind, num_in = weight.format, weight.shape[1]
    if not isinstance(kind, IntegerFormat) or num_in % BLOCK or (kind.scheme.bits == 8 and kind.has_zeros):
        return None
    is_half = _fits_half(kind.scales(weight))
    if kind.scheme.bits == 8:
        return "Q8_0" if is_half else "UNPACKED_8"
    group_size = kind.scheme.group_size or num_in
    span = next(span for span in SPANS if group_size % span == 0 and num_in % span == 0)
    return f"HALF_ZERO_4_{span}" if is_half else "FLOAT_ZERO_4_32"


def unpacked_format(passes: Iterable[AnyWeight]) -> str:
    """Return the format for a weight of any integers and factors, of which all rows are given."""
    return "UNPACKED_4" if all(map(_fits_four_bits, passes)) else "UNPACKED_8"


def stored_blocks(weight: StoredWeight, first: int, end: int, name: str) -> StoredWeight:
    """Return rows as blocks of a format."""
    unpacked = weight.unpack(first, end)
    assert isinstance(unpacked, GroupedWeight)
    return replace(stored(unpacked), parts={"blocks": as_blocks(unpacked, name)})


def as_blocks(weight: GroupedWeight, name: str) -> torch.Tensor:
    """Return blocks of a format, uint8 [O, S, bytes of a span]."""
    assert weight.group_size == BLOCK, f"groups of {weight.group_size} inputs have no native form"
    num_out, scale_OB, minimum_OB = weight.shape[0], weight.scale_OG, weight.minimum_OG
    if name == "Q8_0":
        return torch.cat(
            (_bytes(scale_OB.half()), weight.integers_OI.view(num_out, -1, BLOCK).view(torch.uint8)), dim=-1
        )
    if name.startswith("UNPACKED"):
        minimum_OB = torch.zeros_like(scale_OB) if minimum_OB is None else minimum_OB
        integers_OBX = weight.integers_OI.view(num_out, -1, BLOCK).view(torch.uint8)
        return torch.cat((_bytes(scale_OB), _bytes(minimum_OB), integers_OBX), dim=-1)
    span = int(name.rpartition("_")[2])
    scale_OS = scale_OB[:, :: span // BLOCK]
    integers_OSX = weight.integers_OI.view(num_out, -1, span)
    zero_OS1 = -integers_OSX.amin(dim=-1, keepdim=True)
    unsigned_OSX = (integers_OSX + zero_OS1).view(torch.uint8)
    scale_OSX = _bytes(scale_OS.half() if name.startswith("HALF") else scale_OS)
    return torch.cat((scale_OSX, zero_OS1.view(torch.uint8), unsigned_OSX), dim=-1)


def _fits_four_bits(weight: AnyWeight) -> bool:
    assert isinstance(weight, GroupedWeight)
    return bool(weight.integers_OI.amin() >= 0 and weight.integers_OI.amax() <= MOST_IN_FOUR_BITS)


def _bytes(factor_OS: torch.Tensor) -> torch.Tensor:
    return factor_OS.contiguous()[..., None].view(torch.uint8)


def _fits_half(scales: torch.Tensor) -> bool:
    """Return True if float16 represents all scales exactly."""
    halves = scales.half()
    return bool(halves.isfinite().all()) and torch.equal(halves.float(), scales.float())
