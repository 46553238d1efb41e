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

import numpy as np
import torch

from worker.kernels.attention_plan import AttentionGroup
from worker.kernels.fixed_point import LOG2_E, constant, exp2_, round_rows, tanh_
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
    """Laid out [pages, 2 K, P] as attention_plan.py says."""

    page_size: int
    num_kv_heads: int
    head_size: int
    integers: torch.Tensor
    """int16 [pages * 2 K * P, H]."""
    scales: torch.Tensor
    """float32 [pages * 2 K * P]."""

    @classmethod
    def allocate(cls, num_pages: int, page_size: int, num_kv_heads: int, head_size: int) -> Self:
        num_rows = num_pages * 2 * num_kv_heads * page_size
        return cls(
            page_size=page_size,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            # numpy's zeros cost nothing until a page is first written; torch's would touch gigabytes at the start.
            integers=torch.from_numpy(np.zeros((num_rows, head_size), dtype=np.int16)),
            scales=torch.from_numpy(np.zeros(num_rows, dtype=np.float32)),
        )

    def write(self, k_TNH: torch.Tensor, v_TNH: torch.Tensor, slot_rows: torch.Tensor) -> None:
        rounded, scale = round_rows(torch.stack((k_TNH, v_TNH)), KV_LEVELS)
        self.integers.index_copy_(0, slot_rows, rounded.to(torch.int16).view(-1, self.head_size))
        self.scales.index_copy_(0, slot_rows, scale.view(-1))


class IntegerAttention:
    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch

    def attend(
        self, q_XNH: torch.Tensor, kv: IntegerKV, group: AttentionGroup, scale: float, logit_cap: float | None
    ) -> torch.Tensor:
        """X = S * Q queries in, as many rows out."""
        assert group.num_keys <= MAX_CONTEXT, "the exact sums hold no longer context"
        S, Q, K, H = group.num_sequences, group.num_queries, kv.num_kv_heads, kv.head_size
        keys, values = self._gather(kv, group).unbind()
        key_scales, value_scales = _gather_scales(kv, group).unbind()
        q_XGH = q_XNH.view(S, Q, K, -1, H).transpose(1, 2).reshape(S * K, -1, H)
        hidden = group.hidden.expand(S, K, Q, q_XGH.shape[1] // Q, -1)
        if logit_cap is None:
            scores = self._scores(q_XGH, keys, key_scales, scale * LOG2_E)
        else:
            scores = tanh_(self._scores(q_XGH, keys, key_scales, scale / logit_cap)).mul_(constant(logit_cap * LOG2_E))
        # They are powers of two now.
        scores.view(hidden.shape).masked_fill_(hidden, float("-inf"))
        weights, weight_scale = self._weights(scores, value_scales, hidden)
        sums = torch.bmm(weights, values, out=self._scratch.take("sums", tuple(q_XGH.shape), torch.float64))
        out = sums.float().mul_(weight_scale).view(S, K, Q, -1, H)
        return out.transpose(1, 2).reshape(q_XNH.shape)

    def _scores(self, q_XGH: torch.Tensor, keys: torch.Tensor, key_scales: torch.Tensor, factor: float) -> torch.Tensor:
        """[S * K, Q * G, L]: query times key times the factor."""
        queries, query_scale = round_rows(q_XGH, QUERY_LEVELS)
        shape = (*q_XGH.shape[:2], keys.shape[1])
        products = self._scratch.take("products", shape, torch.float64)
        torch.bmm(queries.double(), keys.transpose(1, 2), out=products)
        scores = self._scratch.take("scores", shape, torch.float32).copy_(products)
        return scores.mul_(query_scale.mul_(constant(factor))).mul_(key_scales)

    def _weights(
        self, scores: torch.Tensor, value_scales: torch.Tensor, hidden: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Integers as float64 [S * K, Q * G, L], and the scale [S * K, Q * G, 1] of their sums. Overwrites the scores."""
        probabilities = exp2_(scores.sub_(scores.amax(dim=-1, keepdim=True)))
        # A hidden key's is 2^-126 by now, and rounds to zero.
        integers = torch.mul(
            probabilities,
            constant(float(PROBABILITY_LEVELS)),
            out=self._scratch.take("integers", tuple(scores.shape), torch.float32),
        )
        total = integers.round_().sum(dim=-1, keepdim=True, dtype=torch.float64).mul_(1.0 / PROBABILITY_LEVELS)
        weights = probabilities.mul_(value_scales)
        weights.view(hidden.shape).masked_fill_(hidden, 0.0)
        scale = weights.amax(dim=-1, keepdim=True).mul_(constant(1.0 / WEIGHT_LEVELS))
        weights.div_(scale).round_()
        # The products have been read: their memory takes the weights.
        products = self._scratch.take("products", tuple(scores.shape), torch.float64)
        return products.copy_(weights), scale.div_(total.float())

    def _gather(self, kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
        """Keys and values as float64 [2, S * K, L, H]."""
        shape = (group.page_rows.numel(), kv.page_size * kv.head_size)
        gathered = self._scratch.take("gathered", shape, torch.int16)
        torch.index_select(kv.integers.view(-1, shape[1]), 0, group.page_rows, out=gathered)
        floats = self._scratch.take("floats", shape, torch.float64).copy_(gathered)
        return floats.view(2, -1, group.num_keys, kv.head_size)


def _gather_scales(kv: IntegerKV, group: AttentionGroup) -> torch.Tensor:
    """float32 [2, S * K, 1, L]."""
    return kv.scales.view(-1, kv.page_size).index_select(0, group.page_rows).view(2, -1, 1, group.num_keys)
