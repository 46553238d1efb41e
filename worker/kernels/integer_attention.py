"""Attention of the integer mode: KV memory as integers with a scale per token and head, and exact sums.

Queries and keys are Hadamard-rotated before they are rounded (head_rotation.py). As int8, keys and values have a scale for each
SCALE_LENGTH elements of a head. Each such part of a head has its own sums and, because of the values' scales, its own weights.
The parts of a score are added in order.

The weight of a key is its probability times its value's scale. Weights are rounded in blocks of SUM_LENGTH keys, counted from
the first key of a sequence. Each block has a step that is a power of two, chosen by the largest weight in it that the query
sees. So thousands of faint keys still count beside one with nearly all the weight, and few bits suffice: the steps of a row's
blocks differ by at most FAINTEST_BLOCK powers of two, so all its integers are multiples of the finest step.

Budgets, in bits, for keys and values of 13 bits and a sign (7 as int8), L keys:
  products   a sum of SUM_LENGTH products (elements of a head, or keys of a block) with queries or weights of 12 bits (14 for
             int8) fits 32 bits
  scores     sums of such products in float64, so head size H <= 2^24; the sum of a part with a scale of its own is below 2^31
  values     13 + 12 (7 + 14) + FAINTEST_BLOCK + log2 L <= 53 in float64, so L <= 2^17 tokens (EXACT_KEYS)
  sum of probabilities   24 + log2 L

Longer contexts are summed in parts of EXACT_KEYS keys, counted from the first key of a sequence. Each part is exact, and the
parts are added in order.

Keys that a query must not see, and padding, count as exact zeros in all sums, whatever their memory holds.

Legend as in attention_plan.py, and G query heads per KV head.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from worker.kernels.attention_plan import KEY_BLOCK, AttentionGroup
from worker.kernels.fixed_point import LOG2_E, constant, exp2_, round_rows, tanh_
from worker.kernels.head_rotation import rotate_keys, rotate_queries
from worker.kernels.scratch import Scratch

PROBABILITY_LEVELS = 1 << 24
SUM_LENGTH = KEY_BLOCK
"""Number of keys in a block, and of elements of a head whose products a 32-bit sum can hold."""
FAINTEST_BLOCK = 11
"""A block whose weights are all below 2^-11 of the row's largest has the step of a block at 2^-11."""
EXACT_KEYS = 1 << 17
"""Number of keys over which the sum of weighted values is exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFormat:
    name: str
    """Name in the numerics id."""
    dtype: torch.dtype
    levels: int
    factor_levels: int
    """Levels of the factors of keys and values: queries and weights. SUM_LENGTH * levels * factor_levels < 2^31."""
    scale_length: int | None = None
    """Number of elements of a head that share a scale; the last part of a head may be shorter. None for all elements."""

    def parts(self, head_size: int) -> list[slice]:
        """Return the parts of a head that have a scale each."""
        length = self.scale_length or head_size
        return [slice(start, min(start + length, head_size)) for start in range(0, head_size, length)]

    def bytes_per_token(self, head_size: int) -> int:
        """Return the bytes of a key and a value of one KV head, with their float32 scales."""
        return 2 * (self.dtype.itemsize * head_size + 4 * len(self.parts(head_size)))


SCALE_LENGTH = 64
"""Number of elements of a head that share a scale in int8: not more than SUM_LENGTH, since a part is one sum of native code."""
KV_FORMATS = {
    "int16": KVFormat(name="kv14r", dtype=torch.int16, levels=8191, factor_levels=1 << 12),
    "int8": KVFormat(name="kv8r64", dtype=torch.int8, levels=127, factor_levels=1 << 14, scale_length=SCALE_LENGTH),
}
"""The formats, by the setting `kv_dtype`."""
DEFAULT_KV_DTYPE = "int16"
READ_AHEAD = 16
"""Number of elements after the end of a row that native code may read, but does not use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerKV:
    """KV memory of one layer, in the layout [pages, 2 K, P] of attention_plan.py."""

    format: KVFormat
    page_size: int
    num_kv_heads: int
    head_size: int
    integers: torch.Tensor
    """int16 or int8 [pages * 2 K * P, H]."""
    scales: torch.Tensor
    """float32 [pages * 2 K * P, parts of a head]."""

    @classmethod
    def allocate(cls, kv_format: KVFormat, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> Self:
        num_rows = num_pages * 2 * num_kv_heads * page_size
        size = num_rows * head_size
        # numpy's zeros cost nothing until a page is first written; torch would write gigabytes at start.
        bytes_ = np.zeros((size + READ_AHEAD) * kv_format.dtype.itemsize, dtype=np.int8)
        return cls(
            format=kv_format,
            page_size=page_size,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            integers=torch.from_numpy(bytes_).view(kv_format.dtype)[:size].view(num_rows, head_size),
            scales=torch.from_numpy(np.zeros((num_rows, len(kv_format.parts(head_size))), dtype=np.float32)),
        )

    def write(self, k_TNH: torch.Tensor, v_TNH: torch.Tensor, slot_rows: torch.Tensor) -> None:
        kv_2TNH = torch.stack((rotate_keys(k_TNH), v_TNH))
        rounded = [round_rows(kv_2TNH[..., part], self.format.levels) for part in self.format.parts(self.head_size)]
        integers, scales = (torch.cat(parts, dim=-1) for parts in zip(*rounded, strict=True))
        self.integers.index_copy_(0, slot_rows, integers.to(self.format.dtype).view(-1, self.head_size))
        self.scales.index_copy_(0, slot_rows, scales.view(-1, self.scales.shape[1]))


class IntegerAttention:
    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def attend(
        self, q_XNH: torch.Tensor, kv: IntegerKV, group: AttentionGroup, scale: float, logit_cap: float | None
    ) -> torch.Tensor:
        """Return the attention of X = S * Q queries, [X, N, H]."""
        S, Q, K, H = group.num_sequences, group.num_queries, kv.num_kv_heads, kv.head_size
        keys, values = self._gather(kv, group).unbind()
        key_scales, value_scales = _gather_scales(kv, group).unbind()
        parts = kv.format.parts(H)
        q_XGH = rotate_queries(q_XNH).view(S, Q, K, -1, H).transpose(1, 2).reshape(S * K, -1, H)
        hidden = group.hidden.expand(S, K, Q, q_XGH.shape[1] // Q, -1)
        if logit_cap is None:
            scores = self._scores(q_XGH, keys, key_scales, kv.format, scale * LOG2_E)
        else:
            scores = tanh_(self._scores(q_XGH, keys, key_scales, kv.format, scale / logit_cap))
            scores.mul_(constant(logit_cap * LOG2_E))
        # The scores are exponents of two now.
        scores.view(hidden.shape).masked_fill_(hidden, float("-inf"))
        probabilities, total = self._probabilities(scores)
        outs = []
        for part, part_scales in zip(parts, value_scales, strict=True):
            weights, weight_scale = self._weights(probabilities, total, part_scales, hidden, kv.format)
            outs.append(self._sum_values(weights, values[..., part]).float().mul_(weight_scale))
        out = torch.cat(outs, dim=-1).view(S, K, Q, -1, H)
        return out.transpose(1, 2).reshape(q_XNH.shape)

    def _scores(
        self, q_XGH: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor, kv_format: KVFormat, factor: float
    ) -> torch.Tensor:
        """Return [S * K, Q * G, L]: query times key times the factor."""
        integers, query_scale = round_rows(q_XGH, kv_format.factor_levels)
        queries = integers.double()
        query_scale.mul_(constant(factor))
        shape = (*q_XGH.shape[:2], keys.shape[1])
        products = self._scratch.take("products", shape, torch.float64)
        scores = self._scratch.take("scores", shape, torch.float32)
        for number, part in enumerate(kv_format.parts(q_XGH.shape[2])):
            torch.bmm(queries[..., part], keys[..., part].transpose(1, 2), out=products)
            if number == 0:
                scores.copy_(products).mul_(query_scale).mul_(key_scales[number])
            else:
                scores.add_(products.float().mul_(query_scale).mul_(key_scales[number]))
        return scores

    def _probabilities(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the probabilities relative to a row's largest, in place of the scores, and their sums [S * K, Q * G, 1]."""
        probabilities = exp2_(scores.sub_(scores.amax(dim=-1, keepdim=True)))
        # The probability of a hidden key is 2^-126 here, and rounds to zero.
        integers = torch.mul(
            probabilities,
            constant(float(PROBABILITY_LEVELS)),
            out=self._scratch.take("integers", tuple(scores.shape), torch.float32),
        )
        total = integers.round_().sum(dim=-1, keepdim=True, dtype=torch.float64).mul_(1.0 / PROBABILITY_LEVELS)
        return probabilities, total

    def _weights(
        self,
        probabilities: torch.Tensor,
        total: torch.Tensor,
        value_scales: torch.Tensor,
        hidden: torch.Tensor,
        kv_format: KVFormat,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return integers as float64 [S * K, Q * G, L], and the scale [S * K, Q * G, 1] of their sums."""
        shape = tuple(probabilities.shape)
        weights = torch.mul(probabilities, value_scales, out=self._scratch.take("weights", shape, torch.float32))
        weights.view(hidden.shape).masked_fill_(hidden, 0.0)
        finest = _round_weights_(weights, kv_format.factor_levels // 2)
        # The products are no longer needed, so their memory is reused for the weights.
        products = self._scratch.take("products", shape, torch.float64)
        return products.copy_(weights), finest.div_(total.float())

    def _sum_values(self, weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return [S * K, Q * G, H], in units of each row's finest step."""
        shape = (*weights.shape[:2], values.shape[2])
        sums = self._scratch.take("sums", shape, torch.float64)
        torch.bmm(weights[:, :, :EXACT_KEYS], values[:, :EXACT_KEYS], out=sums)
        for first in range(EXACT_KEYS, weights.shape[2], EXACT_KEYS):
            part = slice(first, first + EXACT_KEYS)
            sums.add_(torch.bmm(weights[:, :, part], values[:, part]))
        return sums

    def _gather(self, kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
        """Return keys and values as float64 [2, S * K, L, H]."""
        shape = (group.page_rows.numel(), kv.page_size * kv.head_size)
        gathered = self._scratch.take(f"gathered {kv.format.name}", shape, kv.format.dtype)
        torch.index_select(kv.integers.view(-1, shape[1]), 0, group.page_rows, out=gathered)
        floats = self._scratch.take("floats", shape, torch.float64).copy_(gathered)
        return floats.view(2, -1, group.num_keys, kv.head_size)


def _gather_scales(kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
    """Return the scales of keys and values as float32 [2, parts of a head, S * K, 1, L]."""
    num_parts = kv.scales.shape[1]
    scales = kv.scales.view(-1, kv.page_size * num_parts).index_select(0, group.page_rows)
    return scales.view(2, -1, 1, group.num_keys, num_parts).movedim(-1, 1)


def _round_weights_(weights: torch.Tensor, half_levels: int) -> torch.Tensor:
    """Round weights to integers, in place, and return the finest step of each row.

    The integers are in units of that finest step and are multiples of their block's step. The largest weight of a block
    becomes half_levels to 2 * half_levels of its block's steps.
    """
    blocks = weights.view(*weights.shape[:-1], -1, SUM_LENGTH)
    faintest = _power_below(weights.amax(dim=-1, keepdim=True)).mul_(constant(2.0**-FAINTEST_BLOCK))
    powers = torch.maximum(_power_below(blocks.amax(dim=-1, keepdim=True)), faintest[..., None])
    blocks.mul_(torch.div(constant(float(half_levels)), powers)).round_().mul_(powers.div_(faintest[..., None]))
    return faintest.mul_(constant(1.0 / half_levels))


def _power_below(x: torch.Tensor) -> torch.Tensor:
    """Return the largest power of two that is not above x >= 0; infinity for infinity and NaN."""
    return (x.view(torch.int32) & 0x7F800000).view(torch.float32)
