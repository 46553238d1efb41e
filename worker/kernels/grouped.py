"""The integer mode's arithmetic for linears whose weights are integers in the file: the weights stay unchanged.

With scale d and minimum m of each group of weights (../weights/grouped.py), and each 32 inputs rounded to integers q times s,

    sum over i of (d w_i + m) x_i  ~  (sum of w_i q_i) d s  +  m (s sum of q_i)

The weights lose nothing. The inputs are not Hadamard-rotated, because the weights are not. Blocks of 32 inputs are added to the
result one after the other. The operations of a block, each rounded to float32, are in this order:

    groups of 32:  y += (sum * d) * s;                       with minima  y += m * (s * sum of q)
    groups of 16:  y += (sum_0 * d_0 + sum_1 * d_1) * s;     with minima  y += m_0 * (s * sum_0 of q) + m_1 * (s * sum_1 of q)

A block whose scale is more than OUTSTANDING times the mean of its row's scales would cause most of the error. What remains of it,
x - q s, is rounded with a scale of its own: 15 bits together. The products of these remainders follow those of all blocks, with
the same operations. The mean is of the row alone, from a sum in the order of the blocks.

Budget of bits: integers are of at most 8 bits, so a sum of 32 products is at most 32 * 128 * 127 < 2^19, exact in int32 and
float32 in any order. Everything else is a sequence of single IEEE operations, so the bits do not depend on the rest of the batch:
see fixed_point.py. A format that stores integers with an offset subtracts it within the exact sum.

Legend as in step_batch.py; O, I outer and inner dimension, G blocks of 32 inputs, K groups in a block, W inputs of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from worker.kernels.fixed_point import constant, round_rows
from worker.weights.grouped import BLOCK, GroupedWeight

LEVELS = 127
OUTSTANDING = 4
"""A block of inputs is outstanding if its scale is more than this many times the mean of its row's scales."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedMatrix:
    """A matrix with the file's own integers and factors."""

    integers_GKWO: torch.Tensor
    scale_GKO: torch.Tensor
    minimum_GKO: torch.Tensor | None
    input_order_I: torch.Tensor | None = None
    """The inputs in the order of the weights; None if they are in order."""

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in (self.integers_GKWO, self.scale_GKO, self.minimum_GKO) if part is not None)

    def dequantize(self, rows_T: torch.Tensor) -> torch.Tensor:
        """Return rows as float32 [T, I], with the bits of GroupedWeight.dequantize."""
        values_GKWT = self.integers_GKWO[..., rows_T].float().mul_(self.scale_GKO[..., None, rows_T])
        if self.minimum_GKO is not None:
            values_GKWT.add_(self.minimum_GKO[..., None, rows_T])
        return values_GKWT.flatten(0, 2).T.contiguous()


def pack_grouped(weight: GroupedWeight, input_order_I: torch.Tensor | None = None) -> GroupedMatrix:
    num_out, num_blocks, size = weight.shape[0], weight.shape[1] // BLOCK, weight.group_size

    def by_block(factor_OG: torch.Tensor) -> torch.Tensor:
        return factor_OG.view(num_out, num_blocks, -1).permute(1, 2, 0).contiguous()

    return GroupedMatrix(
        integers_GKWO=weight.integers_OI.view(num_out, num_blocks, -1, size).permute(1, 2, 3, 0).contiguous(),
        scale_GKO=by_block(weight.scale_OG),
        minimum_GKO=None if weight.minimum_OG is None else by_block(weight.minimum_OG),
        input_order_I=input_order_I,
    )


def multiply_grouped(x_TI: torch.Tensor, matrix: GroupedMatrix) -> torch.Tensor:
    if matrix.input_order_I is not None:
        x_TI = x_TI.index_select(1, matrix.input_order_I)
    y_TO = torch.zeros(len(x_TI), matrix.integers_GKWO.shape[-1])
    x_TGB = x_TI.view(len(x_TI), -1, BLOCK)
    integers_TGB, scale_TG1 = round_rows(x_TGB, LEVELS)
    for block in range(x_TGB.shape[1]):
        _add_block(y_TO, integers_TGB[:, block], scale_TG1[:, block], matrix, block)
    outstanding_TG = find_outstanding(scale_TG1[..., 0])
    rest_TGB, rest_scale_TG1 = round_rows(x_TGB - integers_TGB * scale_TG1, LEVELS)
    for block in outstanding_TG.any(dim=0).nonzero()[:, 0].tolist():
        rows = outstanding_TG[:, block]
        y_RO = y_TO[rows]
        _add_block(y_RO, rest_TGB[rows, block], rest_scale_TG1[rows, block], matrix, block)
        y_TO[rows] = y_RO
    return y_TO


def find_outstanding(scale_TG: torch.Tensor) -> torch.Tensor:
    """Return which blocks are outstanding, as bools. In a row with NaN or infinity none is."""
    total_T = torch.zeros(len(scale_TG))
    for scale_T in scale_TG.unbind(dim=1):
        total_T.add_(scale_T)
    return scale_TG > total_T.mul_(constant(OUTSTANDING / scale_TG.shape[1]))[:, None]


def _add_block(
    y_TO: torch.Tensor, integers_TB: torch.Tensor, scale_T1: torch.Tensor, matrix: GroupedMatrix, block: int
) -> None:
    _, groups, size, _ = matrix.integers_GKWO.shape
    integers_TKW = integers_TB.view(-1, groups, size)
    products = (integers_TKW[:, k] @ matrix.integers_GKWO[block, k].float() for k in range(groups))
    scaled = (sums_TO.mul_(scale_O) for sums_TO, scale_O in zip(products, matrix.scale_GKO[block], strict=True))
    y_TO.add_(_sum(scaled).mul_(scale_T1))
    if matrix.minimum_GKO is not None:
        offset_TK = integers_TKW.sum(dim=-1).mul_(scale_T1)
        y_TO.add_(_sum(offset_TK[:, k, None] * matrix.minimum_GKO[block, k] for k in range(groups)))


def _sum(terms: Iterator[torch.Tensor]) -> torch.Tensor:
    total = next(terms)
    for term in terms:
        total.add_(term)
    return total
