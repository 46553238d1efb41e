"""Linears of quantized checkpoints whose weights are integers: AWQ, GPTQ and compressed-tensors.

A weight is scale * (integer - zero), and zeros are integers. With 4 bits the difference is an integer of 5 bits and a sign. With 8
bits it may need 9, so that the zero becomes a minimum, which has no rounding error for scales of 16 bits.

Legend: O, I outputs and inputs of a linear, R some of its rows, G groups of a row, B blocks of 32 inputs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pagoda.models.formats.quantization.scheme import Layout, Scheme
from worker.weights.checkpoint import WeightsError
from worker.weights.grouped import BLOCK, AnyWeight, GroupedWeight
from worker.weights.linear_format import StoredWeight
from worker.weights.quantized.bit_fields import AWQ_PLACES, add_one, fields_of_columns, fields_of_rows

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """Integers as a checkpoint of Hugging Face stores them, with its tensors as parts."""

    scheme: Scheme
    has_zeros: bool
    """True if a zero differs from the middle of the integers."""

    @property
    def name(self) -> str:
        return f"{self.scheme.layout} ({self.scheme.bits} bits)"

    def scales(self, weight: StoredWeight) -> torch.Tensor:
        """Return the scales of all rows, in the checkpoint's type."""
        return _SCALES[self.scheme.layout](weight.parts, self.scheme, torch.arange(weight.shape[0]))

    def unpack(self, weight: StoredWeight, first: int, end: int) -> AnyWeight:
        rows = torch.arange(first, end) if weight.row_order_O is None else weight.row_order_O[first:end]
        integers_RI, zero_RG, scale_RG = (
            readers[self.scheme.layout](weight.parts, self.scheme, rows) for readers in (_INTEGERS, _ZEROS, _SCALES)
        )
        num_in = weight.shape[1]
        if weight.input_order_I is not None:
            integers_RI = integers_RI.index_select(1, weight.input_order_I)
        group_size = self.scheme.group_size or num_in
        if num_in % BLOCK:
            zero_RI, scale_RI = (_repeat(each, group_size, num_in).float() for each in (zero_RG, scale_RG))
            return (integers_RI.float() - zero_RI).mul_(scale_RI)
        scale_RB = _repeat(scale_RG.float(), group_size // BLOCK, num_in // BLOCK)
        middle = 1 << (self.scheme.bits - 1)
        if self.scheme.bits == 8 and self.has_zeros:
            distance_RB = _repeat(middle - zero_RG.float(), group_size // BLOCK, num_in // BLOCK)
            signed_RI = (integers_RI ^ middle).view(torch.int8)
            return GroupedWeight(integers_OI=signed_RI, scale_OG=scale_RB, minimum_OG=scale_RB * distance_RB)
        zero_RI = _repeat(zero_RG.to(torch.uint8), group_size, num_in)
        # Bytes wrap: the difference is right if it fits.
        return GroupedWeight(
            integers_OI=(integers_RI - zero_RI).view(torch.int8).contiguous(), scale_OG=scale_RB, minimum_OG=None
        )


def has_zeros(scheme: Scheme, parts: Parts, num_out: int) -> bool:
    """Return True if a zero differs from the middle of the integers."""
    zero_OG = _ZEROS[scheme.layout](parts, scheme, torch.arange(num_out))
    return bool((zero_OG != 1 << (scheme.bits - 1)).any())


def _repeat(factors_RG: torch.Tensor, times: int, size: int) -> torch.Tensor:
    return factors_RG.repeat_interleave(times, dim=1)[:, :size].contiguous()


def input_order(scheme: Scheme, parts: Parts, num_in: int) -> torch.Tensor | None:
    """Return the inputs sorted by their group, or None if they are in that order. Raises WeightsError for impossible groups."""
    groups_I = parts.get("g_idx" if scheme.layout is Layout.GPTQ else "weight_g_idx")
    if groups_I is None or scheme.group_size is None or (scheme.layout is Layout.PACKED and bool((groups_I < 0).any())):
        return None  # compressed-tensors writes -1 where it did not choose an order.
    expected_I = (torch.arange(num_in) // scheme.group_size).to(groups_I.dtype)
    if torch.equal(groups_I, expected_I):
        return None
    order_I = torch.argsort(groups_I, stable=True)
    if not torch.equal(groups_I[order_I], expected_I):
        num_groups = -(-num_in // scheme.group_size)
        raise WeightsError(
            f"its g_idx must name each of the groups 0 to {num_groups - 1} {scheme.group_size} times "
            f"(got numbers from {int(groups_I.min())} to {int(groups_I.max())})"
        )
    return order_I


def _awq_integers(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return fields_of_columns(parts["qweight"], scheme.bits, rows, AWQ_PLACES)


def _awq_zeros(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return fields_of_columns(parts["qzeros"], scheme.bits, rows, AWQ_PLACES)


def _gptq_integers(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return fields_of_rows(parts["qweight"].index_select(1, rows).T, scheme.bits)


def _gptq_zeros(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    zeros = add_one(parts["qzeros"], scheme.bits) if scheme.zeros_minus_one else parts["qzeros"]
    return fields_of_columns(zeros, scheme.bits, rows)


def _packed_integers(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return fields_of_rows(parts["weight_packed"].index_select(0, rows), scheme.bits)


def _packed_zeros(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    zeros = parts.get("weight_zero_point")
    if zeros is None or zeros.dtype == torch.int8:
        return _signed_zeros(parts, scheme, rows)
    return fields_of_rows(zeros.T, scheme.bits).T.index_select(0, rows)


def _int8_integers(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return parts["weight"].index_select(0, rows).view(torch.uint8) ^ 128


def _signed_zeros(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    """Return zeros that are stored as signed numbers, or that are not stored."""
    scale_RG, zeros, middle = (
        _scales_of_rows(parts, scheme, rows),
        parts.get("weight_zero_point"),
        1 << (scheme.bits - 1),
    )
    if zeros is None:
        return torch.full(scale_RG.shape, middle)
    return _rows(zeros, rows).int().expand(scale_RG.shape) + middle


def _scales_of_columns(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return parts["scales"].index_select(1, rows).T


def _scales_of_rows(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> torch.Tensor:
    return _rows(parts["weight_scale"], rows)


def _rows(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the rows' factors [R, G] of [O, G], or of one number for the whole matrix."""
    return factors.expand(len(rows), 1) if factors.numel() == 1 else factors.index_select(0, rows)


_Reader = Callable[[Parts, Scheme, torch.Tensor], torch.Tensor]
_INTEGERS: Mapping[Layout, _Reader] = {
    Layout.AWQ: _awq_integers,
    Layout.GPTQ: _gptq_integers,
    Layout.PACKED: _packed_integers,
    Layout.INT8: _int8_integers,
}
"""Functions that return some rows' integers, uint8 [R, I]."""
_ZEROS: Mapping[Layout, _Reader] = {
    Layout.AWQ: _awq_zeros,
    Layout.GPTQ: _gptq_zeros,
    Layout.PACKED: _packed_zeros,
    Layout.INT8: _signed_zeros,
}
"""Functions that return some rows' zeros, whole numbers [R, G]."""
_SCALES: Mapping[Layout, _Reader] = {
    Layout.AWQ: _scales_of_columns,
    Layout.GPTQ: _scales_of_columns,
    Layout.PACKED: _scales_of_rows,
    Layout.INT8: _scales_of_rows,
}
"""Functions that return some rows' scales [R, G]."""
