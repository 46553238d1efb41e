"""Linears of quantized checkpoints whose weights are integers: AWQ, GPTQ and compressed-tensors.

A weight is scale * (integer - zero). The zeros are integers, so that scale * integer - scale * zero has no rounding error for
scales of 16 bits.

Legend: O, I outputs and inputs of a linear, R some of its rows, G groups of a row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pagoda.models.formats.quantization.scheme import Layout, Scheme
from worker.weights.checkpoint import WeightsError
from worker.weights.four_bit import BLOCK, AnyWeight, FourBitWeight
from worker.weights.linear_format import StoredWeight
from worker.weights.quantized.bit_fields import AWQ_PLACES, add_one, fields_of_columns, fields_of_rows

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of a weight."""

    integers_RI: torch.Tensor
    """uint8."""
    scale_RG: torch.Tensor
    zero_RG: torch.Tensor
    """Whole numbers in any type."""


@dataclass(frozen=True, slots=True)
class IntegerFormat:
    """Integers as a checkpoint of Hugging Face stores them, with its tensors as parts."""

    scheme: Scheme

    @property
    def name(self) -> str:
        return f"{self.scheme.layout} ({self.scheme.bits} bits)"

    def unpack(self, weight: StoredWeight, first: int, end: int) -> AnyWeight:
        rows = torch.arange(first, end) if weight.row_order_O is None else weight.row_order_O[first:end]
        read = _READERS[self.scheme.layout](weight.parts, self.scheme, rows)
        integers_RI = read.integers_RI
        if weight.input_order_I is not None:
            integers_RI = integers_RI.index_select(1, weight.input_order_I)
        scale_RG = read.scale_RG.float()
        minimum_RG = -(scale_RG * read.zero_RG.float())
        num_in = weight.shape[1]
        group = self.scheme.group_size or num_in
        if num_in % BLOCK or self.scheme.bits == 8:
            repeated = [factor.repeat_interleave(group, dim=1)[:, :num_in] for factor in (scale_RG, minimum_RG)]
            return integers_RI.float().mul_(repeated[0]).add_(repeated[1])
        scale_RB, minimum_RB = (
            factor.repeat_interleave(group // BLOCK, dim=1)[:, : num_in // BLOCK] for factor in (scale_RG, minimum_RG)
        )
        return FourBitWeight(
            integers_OI=integers_RI.contiguous(), scale_OG=scale_RB.contiguous(), minimum_OG=minimum_RB.contiguous()
        )


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


def _awq(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> Rows:
    return Rows(
        integers_RI=fields_of_columns(parts["qweight"], scheme.bits, rows, AWQ_PLACES),
        scale_RG=parts["scales"].index_select(1, rows).T,
        zero_RG=fields_of_columns(parts["qzeros"], scheme.bits, rows, AWQ_PLACES),
    )


def _gptq(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> Rows:
    zeros = add_one(parts["qzeros"], scheme.bits) if scheme.zeros_minus_one else parts["qzeros"]
    return Rows(
        integers_RI=fields_of_rows(parts["qweight"].index_select(1, rows).T, scheme.bits),
        scale_RG=parts["scales"].index_select(1, rows).T,
        zero_RG=fields_of_columns(zeros, scheme.bits, rows),
    )


def _packed(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> Rows:
    middle, zeros = 1 << (scheme.bits - 1), parts.get("weight_zero_point")
    scale_RG = _scales(parts, rows)
    if zeros is None:
        zero_RG = torch.full(scale_RG.shape, middle)
    elif zeros.dtype == torch.int8:
        zero_RG = zeros.index_select(0, rows).int() + middle
    else:
        zero_RG = fields_of_rows(zeros.T, scheme.bits).T.index_select(0, rows)
    integers_RI = fields_of_rows(parts["weight_packed"].index_select(0, rows), scheme.bits)
    return Rows(integers_RI=integers_RI, scale_RG=scale_RG, zero_RG=zero_RG)


def _int8(parts: Parts, scheme: Scheme, rows: torch.Tensor) -> Rows:
    scale_RG, zeros = _scales(parts, rows), parts.get("weight_zero_point")
    zero_RG = torch.zeros_like(scale_RG) if zeros is None else _of_rows(zeros, rows).float().expand(scale_RG.shape)
    integers_RI = parts["weight"].index_select(0, rows).view(torch.uint8) ^ 128
    return Rows(integers_RI=integers_RI, scale_RG=scale_RG, zero_RG=zero_RG + 128)


def _scales(parts: Parts, rows: torch.Tensor) -> torch.Tensor:
    return _of_rows(parts["weight_scale"], rows)


def _of_rows(factors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the rows' factors [R, G] of [O, G], or of one number for the whole matrix."""
    return factors.expand(len(rows), 1) if factors.numel() == 1 else factors.index_select(0, rows)


_READERS: Mapping[Layout, Callable[[Parts, Scheme, torch.Tensor], Rows]] = {
    Layout.AWQ: _awq,
    Layout.GPTQ: _gptq,
    Layout.PACKED: _packed,
    Layout.INT8: _int8,
}
