"""Attention of the integer mode: KV memory as int16 with a scale per token and head, exact sums in float64.

Budgets, in bits, for head size H and L keys, both sums exact while they stay within float64's 53:
  scores   query 22 + key 15 + log2 H, so H <= 2^16
  values   weight 21 + value 15 + log2 L, so L <= 2^17 tokens (MAX_CONTEXT)
  sum of weights   30 + log2 L

The weight of a key is its probability times its value's scale, rounded against the largest such weight among the visible
keys: 21 bits, because thousands of faint keys beside one that takes nearly all must still count. Keys that a query must not
see, and padding, are exact zeros in all sums, whatever lies in their memory.

Legend as in attention_plan.py, and G query heads per KV head.
"""

from dataclasses import dataclass
from typing import Self

import torch

from worker.kernels.attention_plan import AttentionGroup
from worker.kernels.fixed_point import exp2_, round_rows
from worker.kernels.scratch import Scratch

KV_LEVELS = 32767
QUERY_LEVELS = 1 << 22
WEIGHT_LEVELS = 1 << 21
PROBABILITY_LEVELS = 1 << 30
MAX_CONTEXT = 1 << 17


def kv_bytes_per_token(head_size: int) -> int:
    """Keys and values of one KV head: int16 each, and a float32 scale."""
    return 2 * (2 * head_size + 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerKV:
    """Laid out [pages, KV heads, P], so that a page's tokens of one head lie together."""

    page_size: int
    num_kv_heads: int
    keys: torch.Tensor
    """int16 [pages * K * P, H]."""
    values: torch.Tensor
    key_scales: torch.Tensor
    """float32 [pages * K * P]."""
    value_scales: torch.Tensor

    @classmethod
    def allocate(cls, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> Self:
        num_rows = num_pages * num_kv_heads * page_size
        return cls(
            page_size=page_size,
            num_kv_heads=num_kv_heads,
            keys=torch.zeros(num_rows, head_size, dtype=torch.int16),
            values=torch.zeros(num_rows, head_size, dtype=torch.int16),
            key_scales=torch.zeros(num_rows),
            value_scales=torch.zeros(num_rows),
        )

    def write(self, k_TKH: torch.Tensor, v_TKH: torch.Tensor, rows: torch.Tensor) -> None:
        for x_TKH, integers, scales in ((k_TKH, self.keys, self.key_scales), (v_TKH, self.values, self.value_scales)):
            rounded_TKH, scale_TK1 = round_rows(x_TKH, KV_LEVELS)
            integers.index_copy_(0, rows, rounded_TKH.to(torch.int16).flatten(0, 1))
            scales.index_copy_(0, rows, scale_TK1.flatten())


class IntegerAttention:
    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def attend(self, q_XNH: torch.Tensor, kv: IntegerKV, group: AttentionGroup, log2_scale: float) -> torch.Tensor:
        """X = S * Q queries in, as many rows out. `log2_scale` turns a score into a power of two."""
        assert group.num_keys <= MAX_CONTEXT, "the exact sums hold no longer context"
        S, Q, K = group.num_sequences, group.num_queries, kv.num_kv_heads
        num_heads, head_size = q_XNH.shape[1:]
        q_XGH = q_XNH.view(S, Q, K, -1, head_size).transpose(1, 2).reshape(S * K, -1, head_size)
        scores = self._scores(q_XGH, kv, group, log2_scale)
        weights, scale = self._weights(scores, kv, group)
        values = self._gather("values", kv.values, kv, group)
        sums = torch.bmm(weights, values, out=self._scratch.take("sums", tuple(q_XGH.shape), torch.float64))
        out = sums.float().mul_(scale).view(S, K, Q, -1, head_size)
        return out.transpose(1, 2).reshape(S * Q, num_heads, head_size)

    def _scores(self, q_XGH: torch.Tensor, kv: IntegerKV, group: AttentionGroup, log2_scale: float) -> torch.Tensor:
        """[S * K, Q * G, L], in powers of two, minus infinity where hidden."""
        queries, scale = round_rows(q_XGH, QUERY_LEVELS)
        keys = self._gather("keys", kv.keys, kv, group)
        shape = (*q_XGH.shape[:2], group.num_keys)
        products = self._scratch.take("products", shape, torch.float64)
        torch.bmm(queries.double(), keys.transpose(1, 2), out=products)
        scores = self._scratch.take("scores", shape, torch.float32).copy_(products)
        scores.mul_(scale.mul_(log2_scale)).mul_(self._gather_scales(kv.key_scales, kv, group))
        self._per_query(scores, kv, group).masked_fill_(group.hidden, float("-inf"))
        return scores

    def _weights(self, scores: torch.Tensor, kv: IntegerKV, group: AttentionGroup) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers as float64 [S * K, Q * G, L], and the scale [S * K, Q * G, 1] of what they weigh. Overwrites the scores."""
        probabilities = exp2_(scores.sub_(scores.amax(dim=-1, keepdim=True)))
        integers = self._scratch.take("integers", tuple(scores.shape), torch.float32)
        # What is hidden became 2^-126 by now, and rounds to zero.
        total = torch.mul(probabilities, PROBABILITY_LEVELS, out=integers).round_().sum(-1, True, dtype=torch.float64)
        weights = probabilities.mul_(self._gather_scales(kv.value_scales, kv, group))
        self._per_query(weights, kv, group).masked_fill_(group.hidden, 0.0)
        scale = weights.amax(dim=-1, keepdim=True).mul_(1.0 / WEIGHT_LEVELS)
        weights.div_(scale).round_()
        # The scores' own products have been read: their memory takes the weights.
        return self._scratch.take("products", tuple(scores.shape), torch.float64).copy_(weights), scale.div_(
            total.mul_(1.0 / PROBABILITY_LEVELS).float()
        )

    def _gather(self, place: str, memory: torch.Tensor, kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
        """The group's integers, as float64 [S * K, L, H]."""
        pages = memory.view(-1, kv.page_size * memory.shape[-1])
        shape = (group.page_rows.numel(), pages.shape[1])
        gathered = self._scratch.take("gathered", shape, torch.int16)
        torch.index_select(pages, 0, group.page_rows, out=gathered)
        floats = self._scratch.take(place, shape, torch.float64).copy_(gathered)
        return floats.view(-1, group.num_keys, memory.shape[-1])

    def _gather_scales(self, scales: torch.Tensor, kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
        """float32 [S * K, 1, L]."""
        return scales.view(-1, kv.page_size).index_select(0, group.page_rows).view(-1, 1, group.num_keys)

    def _per_query(self, x: torch.Tensor, kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
        """[S * K, Q * G, L] seen as [S, K, Q, G, L], where the mask fits."""
        return x.view(group.num_sequences, kv.num_kv_heads, group.num_queries, -1, group.num_keys)
