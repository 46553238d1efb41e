"""The integer mode's number format for linears whose weights have four bits in the file: the weights stay unchanged.

With scale d and minimum m of each 32 weights (../weights/four_bit.py), and the inputs x rounded to integers q times s,

    sum over i of (d w_i + m) x_i  ~  d s (sum of w_i q_i)  +  m s (sum of q_i)

The weights lose nothing. The inputs are not Hadamard-rotated, because the weights are not.

The first sum is an integer of at most 32 * 15 * 127 < 2^16, the second is smaller. Both are exact in int32 and float32 in any
order. Everything else is a sequence of single IEEE operations, so the bits do not depend on the rest of the batch: see
fixed_point.py.

Legend as in step_batch.py; O, I outer and inner dimension, G blocks of 32 inputs, B inputs of a block.
"""

from dataclasses import dataclass

import torch

from worker.kernels.fixed_point import round_rows
from worker.kernels.hadamard_int8 import IntegerLinear
from worker.weights.four_bit import BLOCK, FourBitWeight

LEVELS = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitLinear(IntegerLinear):
    """A linear with the file's own integers, and its scale and minimum for each 32 inputs."""


def pack_four_bit(weight: FourBitWeight, bias_O: torch.Tensor | None) -> FourBitLinear:
    (num_out, _), num_groups = weight.shape, weight.scale_OG.shape[1]
    integers_GBO = weight.integers_OI.view(num_out, num_groups, BLOCK).permute(1, 2, 0).contiguous()
    packed = integers_GBO, weight.scale_OG.T.contiguous(), weight.minimum_OG.T.contiguous()
    packed_bytes = sum(part.nbytes for part in packed)
    return FourBitLinear(packed=packed, num_out=num_out, packed_bytes=packed_bytes, bias_O=bias_O)


def linear_four_bit(x_TI: torch.Tensor, weight: FourBitLinear) -> torch.Tensor:
    integers_TGB, scale_TG1 = round_rows(x_TI.view(len(x_TI), -1, BLOCK), LEVELS)
    offset_TG1 = integers_TGB.sum(dim=-1, keepdim=True).mul_(scale_TG1)
    y_TO = torch.zeros(len(x_TI), weight.num_out)
    for group, (weight_BO, scale_O, minimum_O) in enumerate(zip(*weight.packed, strict=True)):
        products_TO = integers_TGB[:, group] @ weight_BO.float()
        y_TO.add_(products_TO.mul_(scale_O).mul_(scale_TG1[:, group]))
        y_TO.add_(offset_TG1[:, group] * minimum_O)
    return y_TO if weight.bias_O is None else y_TO.add_(weight.bias_O)
