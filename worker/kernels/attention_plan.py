"""How one step's attention is cut into batched matrix products; made once per step, used by each layer.

Knows nothing about arithmetic or number formats. A layer's KV memory is laid out [pages, 2 K, P, H]: in each page first the
keys of each head, then the values. So one gather over the rows [pages * 2 K] puts the keys of all sequences behind each
other, head by head, then their values; and a page is one piece of memory.

Legend as in batch.py, and: Q queries per sequence of a group, L keys of its longest sequence, K KV heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from worker.batch import StepBatch

MAX_GROUP_KEYS = 4096
"""Keys gathered at once for decoding sequences: a few megabytes, which stay in the cache between gather and product."""
MAX_GROUP_SCORES = 1 << 17
"""Scores of one head held at once for a prefill chunk; bounds memory for long contexts."""
MAX_QUERY_BLOCK = 128
MIN_QUERY_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGroup:
    """S sequences, Q consecutive queries each, over L gathered keys."""

    num_sequences: int
    num_queries: int
    num_keys: int
    query_rows: torch.Tensor
    """int64 [S * Q] rows of the step."""
    page_rows: torch.Tensor
    """int64 [2 * S * K * B] rows [pages * 2 K] of KV memory: the keys', then the values'."""
    hidden: torch.Tensor
    """bool [S, 1, Q, 1, L]: keys that the query must not see, being later than itself or padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPlan:
    slot_rows: torch.Tensor
    """int64 [2 * T * K]: where each token's keys and then values go, as rows [pages * 2 K * P] of KV memory."""
    groups: tuple[AttentionGroup, ...]


class AttentionPlanner:
    """Remembers the plan of the step that is running: all its layers ask for the same one."""

    def __init__(self) -> None:
        self._made: tuple[StepBatch, int, int, AttentionPlan] | None = None

    def plan(self, batch: StepBatch, page_size: int, num_kv_heads: int) -> AttentionPlan:
        made = self._made
        if made is None or made[0] is not batch or made[1:3] != (page_size, num_kv_heads):
            self._made = made = (batch, page_size, num_kv_heads, plan_attention(batch, page_size, num_kv_heads))
        return made[3]


def plan_attention(batch: StepBatch, page_size: int, num_kv_heads: int) -> AttentionPlan:
    lengths = [end - start for start, end in zip(batch.query_starts, batch.query_starts[1:], strict=False)]
    decodes = [s for s, length in enumerate(lengths) if length == 1]
    prefills = [s for s, length in enumerate(lengths) if length > 1]
    groups = [_decode_group(batch, some, page_size, num_kv_heads) for some in _by_length(batch.context_lens, decodes)]
    for sequence in prefills:
        groups += _prefill_groups(batch, sequence, page_size, num_kv_heads)
    return AttentionPlan(slot_rows=_slot_rows(batch.slots_T, page_size, num_kv_heads), groups=tuple(groups))


def _slot_rows(slots_T: torch.Tensor, page_size: int, num_kv_heads: int) -> torch.Tensor:
    pages_T = slots_T.div(page_size, rounding_mode="floor")
    page_rows_2TK = pages_T[:, None] * (2 * num_kv_heads) + _heads(num_kv_heads)[:, None]
    return (page_rows_2TK * page_size + (slots_T % page_size)[:, None]).flatten()


def _by_length(context_lens: Sequence[int], sequences: list[int]) -> Iterator[list[int]]:
    """Cut into groups of similar length, so that little of what is gathered is padding."""
    group: list[int] = []
    for s in sorted(sequences, key=lambda s: context_lens[s]):
        longest = context_lens[s]
        if group and (longest > 2 * context_lens[group[0]] + 64 or longest * (len(group) + 1) > MAX_GROUP_KEYS):
            yield group
            group = []
        group.append(s)
    if group:
        yield group


def _decode_group(batch: StepBatch, sequences: list[int], page_size: int, num_kv_heads: int) -> AttentionGroup:
    context_lens = torch.tensor([batch.context_lens[s] for s in sequences])
    num_pages = -(-int(context_lens.max()) // page_size)
    num_keys = num_pages * page_size
    tables_SB = batch.block_tables_SB[torch.tensor(sequences), :num_pages]
    return AttentionGroup(
        num_sequences=len(sequences),
        num_queries=1,
        num_keys=num_keys,
        query_rows=torch.tensor([batch.query_starts[s] for s in sequences]),
        page_rows=_page_rows(tables_SB, num_kv_heads),
        hidden=(torch.arange(num_keys) >= context_lens[:, None])[:, None, None, None, :],
    )


def _prefill_groups(batch: StepBatch, sequence: int, page_size: int, num_kv_heads: int) -> Iterator[AttentionGroup]:
    start, end = batch.query_starts[sequence : sequence + 2]
    context_len = batch.context_lens[sequence]
    block = min(MAX_QUERY_BLOCK, max(MIN_QUERY_BLOCK, MAX_GROUP_SCORES // context_len))
    for block_start in range(start, end, block):
        block_end = min(block_start + block, end)
        num_pages = -(-(context_len - (end - block_end)) // page_size)
        positions = torch.arange(block_start - end, block_end - end) + context_len
        yield AttentionGroup(
            num_sequences=1,
            num_queries=block_end - block_start,
            num_keys=num_pages * page_size,
            query_rows=torch.arange(block_start, block_end),
            page_rows=_page_rows(batch.block_tables_SB[sequence : sequence + 1, :num_pages], num_kv_heads),
            hidden=(torch.arange(num_pages * page_size) > positions[:, None])[None, None, :, None, :],
        )


def _page_rows(tables_SB: torch.Tensor, num_kv_heads: int) -> torch.Tensor:
    return (tables_SB[:, None] * (2 * num_kv_heads) + _heads(num_kv_heads)[:, None, :, None]).flatten()


def _heads(num_kv_heads: int) -> torch.Tensor:
    """[2, K]: the rows within a page, keys then values."""
    return torch.arange(2 * num_kv_heads).view(2, num_kv_heads)
