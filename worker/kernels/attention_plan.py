"""The plan that divides one step's attention into batched matrix products, made once per step and used by each layer.

A layer's KV memory has the shape [pages, 2 K, P, H]: each page holds the keys of each head, then the values. So a page is
contiguous, and one gather over the rows [pages * 2 K] returns the keys of all sequences, head by head, then their values.

Legend as in step_batch.py, and: Q queries per sequence of a group, L keys of its longest sequence, K KV heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import torch

from worker.kernels.step_batch import StepBatch

MAX_GROUP_KEYS = 4096
"""Maximum keys gathered at once for decoding sequences: a few megabytes, which stay in the cache between gather and product."""
MAX_GROUP_SCORES = 1 << 17
"""Maximum scores of one head held at once for a prefill chunk; limits memory for long contexts."""
KEY_BLOCK = 64
"""The gathered keys of a sequence begin and end at multiples of this number, so that the weights of a block can be rounded
together."""
MAX_WINDOW = 1 << 17
"""Longest window for which earlier keys are left out. With a longer one, all keys are gathered, so that the parts in which they
are summed begin at the same keys for every query (integer_attention.py)."""
MAX_QUERY_BLOCK = 128
MIN_QUERY_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionGroup:
    """A group of S sequences with Q consecutive queries each, over L gathered keys."""

    num_sequences: int
    num_queries: int
    num_keys: int
    query_rows: torch.Tensor
    """int64 [S * Q] rows of the step."""
    page_rows: torch.Tensor
    """int64 [2 * S * K * B] rows [pages * 2 K] of KV memory: those of the keys, then those of the values."""
    hidden: torch.Tensor
    """bool [S, 1, Q, 1, L]: True for keys that the query must not see: later ones, those before its window, and padding."""


class AttentionPlanner:
    """A cache of the running step's plans: all layers use the same plan, or one of two if some have a window."""

    def __init__(self) -> None:
        self._batch: StepBatch | None = None
        self._slot_rows: dict[tuple[int, int], torch.Tensor] = {}
        self._groups: dict[tuple[int, int, int | None], tuple[AttentionGroup, ...]] = {}

    def slot_rows(self, batch: StepBatch, page_size: int, num_kv_heads: int) -> torch.Tensor:
        self._start(batch)
        key = (page_size, num_kv_heads)
        if key not in self._slot_rows:
            self._slot_rows[key] = find_slot_rows(batch.slots_T, page_size, num_kv_heads)
        return self._slot_rows[key]

    def groups(
        self, batch: StepBatch, page_size: int, num_kv_heads: int, window: int | None
    ) -> tuple[AttentionGroup, ...]:
        self._start(batch)
        key = (page_size, num_kv_heads, window)
        if key not in self._groups:
            self._groups[key] = plan_groups(batch, page_size, num_kv_heads, window)
        return self._groups[key]

    def _start(self, batch: StepBatch) -> None:
        if self._batch is not batch:
            self._batch = batch
            self._slot_rows.clear()
            self._groups.clear()


def plan_groups(
    batch: StepBatch, page_size: int, num_kv_heads: int, window: int | None = None
) -> tuple[AttentionGroup, ...]:
    lengths = [end - start for start, end in zip(batch.query_starts, batch.query_starts[1:], strict=False)]
    decodes = [s for s, length in enumerate(lengths) if length == 1]
    prefills = [s for s, length in enumerate(lengths) if length > 1]
    seen_lens = [length if window is None else min(length, window) for length in batch.context_lens]
    groups = [_decode_group(batch, some, page_size, num_kv_heads, window) for some in _by_length(seen_lens, decodes)]
    for sequence in prefills:
        groups += _prefill_groups(batch, sequence, page_size, num_kv_heads, window)
    return tuple(groups)


def find_slot_rows(slots_T: torch.Tensor, page_size: int, num_kv_heads: int) -> torch.Tensor:
    """Return int64 [2 * T * K]: the rows [pages * 2 K * P] of KV memory for each token's keys, then for its values."""
    pages_T = slots_T.div(page_size, rounding_mode="floor")
    page_rows_2TK = pages_T[:, None] * (2 * num_kv_heads) + _heads(num_kv_heads)[:, None]
    return (page_rows_2TK * page_size + (slots_T % page_size)[:, None]).flatten()


def _by_length(seen_lens: Sequence[int], sequences: list[int]) -> Iterator[list[int]]:
    """Yield groups of sequences of similar length, so that few of the gathered keys are padding."""
    group: list[int] = []
    for s in sorted(sequences, key=lambda s: seen_lens[s]):
        longest = seen_lens[s]
        if group and (longest > 2 * seen_lens[group[0]] + 64 or longest * (len(group) + 1) > MAX_GROUP_KEYS):
            yield group
            group = []
        group.append(s)
    if group:
        yield group


def _decode_group(
    batch: StepBatch, sequences: list[int], page_size: int, num_kv_heads: int, window: int | None
) -> AttentionGroup:
    last_S = torch.tensor([batch.context_lens[s] - 1 for s in sequences])
    first_page_S = _first_page(last_S, page_size, window)
    num_pages = _whole_blocks(int((last_S // page_size - first_page_S).max()) + 1, page_size)
    return AttentionGroup(
        num_sequences=len(sequences),
        num_queries=1,
        num_keys=num_pages * page_size,
        query_rows=torch.tensor([batch.query_starts[s] for s in sequences]),
        page_rows=_page_rows(
            _pages(batch.block_tables_SB[torch.tensor(sequences)], first_page_S, num_pages), num_kv_heads
        ),
        hidden=_hidden(last_S[:, None], first_page_S * page_size, num_pages * page_size, window),
    )


def _prefill_groups(
    batch: StepBatch, sequence: int, page_size: int, num_kv_heads: int, window: int | None
) -> Iterator[AttentionGroup]:
    start, end = batch.query_starts[sequence : sequence + 2]
    context_len = batch.context_lens[sequence]
    seen_len = context_len if window is None else min(context_len, window + MAX_QUERY_BLOCK)
    block = min(MAX_QUERY_BLOCK, max(MIN_QUERY_BLOCK, MAX_GROUP_SCORES // seen_len))
    for block_start in range(start, end, block):
        block_end = min(block_start + block, end)
        positions_Q = torch.arange(block_start - end, block_end - end) + context_len
        first_page_1 = _first_page(positions_Q[:1], page_size, window)
        num_pages = _whole_blocks(int(positions_Q[-1]) // page_size + 1 - int(first_page_1), page_size)
        num_keys = num_pages * page_size
        yield AttentionGroup(
            num_sequences=1,
            num_queries=block_end - block_start,
            num_keys=num_keys,
            query_rows=torch.arange(block_start, block_end),
            page_rows=_page_rows(
                _pages(batch.block_tables_SB[sequence : sequence + 1], first_page_1, num_pages), num_kv_heads
            ),
            hidden=_hidden(positions_Q[None], first_page_1 * page_size, num_keys, window),
        )


def _first_page(positions_X: torch.Tensor, page_size: int, window: int | None) -> torch.Tensor:
    """Return the first page to gather for the query at each position.

    A key block begins there, and the query sees no key before it.
    """
    if window is None or window > MAX_WINDOW:
        return torch.zeros_like(positions_X)
    block_pages = _whole_blocks(1, page_size)
    first_page_X = (positions_X - (window - 1)).clamp_(min=0).div_(page_size, rounding_mode="floor")
    return first_page_X.div_(block_pages, rounding_mode="floor").mul_(block_pages)


def _whole_blocks(num_pages: int, page_size: int) -> int:
    """Round a number of pages up to a number that holds whole key blocks."""
    block_pages = lcm(page_size, KEY_BLOCK) // page_size
    return -(-num_pages // block_pages) * block_pages


def _pages(tables_SB: torch.Tensor, first_page_S: torch.Tensor, num_pages: int) -> torch.Tensor:
    """Return page ids [S, pages]. Padding may lie beyond the table's end, where the page does not matter."""
    blocks_SB = (first_page_S[:, None] + torch.arange(num_pages)).clamp_(max=tables_SB.shape[1] - 1)
    return tables_SB.gather(1, blocks_SB)


def _hidden(positions_SQ: torch.Tensor, first_key_S: torch.Tensor, num_keys: int, window: int | None) -> torch.Tensor:
    keys_SL = first_key_S[:, None] + torch.arange(num_keys)
    keys_S1L, positions_SQ1 = keys_SL[:, None], positions_SQ[:, :, None]
    hidden_SQL = keys_S1L > positions_SQ1
    if window is not None:
        hidden_SQL |= keys_S1L <= positions_SQ1 - window
    return hidden_SQL[:, None, :, None, :]


def _page_rows(tables_SB: torch.Tensor, num_kv_heads: int) -> torch.Tensor:
    return (tables_SB[:, None] * (2 * num_kv_heads) + _heads(num_kv_heads)[:, None, :, None]).flatten()


def _heads(num_kv_heads: int) -> torch.Tensor:
    """Return [2, K]: the rows within a page, first those of the keys, then those of the values."""
    return torch.arange(2 * num_kv_heads).view(2, num_kv_heads)
