"""The flat batch of one step: all scheduled tokens of all sequences behind each other, and whose they are.

Legend, here and in layers/, models/ and kernels/: T tokens in the step, S sequences in it, R sampled rows, B blocks in
the longest block table, P page size, D hidden size, N heads (query or KV, the variable tells), H head size,
V vocabulary.

Building one is a pure function of what the engine decided to compute. Knows nothing about models or sampling.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Self

import numpy as np
import torch

from worker.sequence import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    token_ids_T: torch.Tensor
    """int64."""
    positions_T: torch.Tensor
    """int64: each token's position in its sequence."""
    slots_T: torch.Tensor
    """int64: where its keys and values go, `page_id * page_size + offset`."""
    query_starts: tuple[int, ...]
    """S + 1 offsets into T: sequence s owns tokens [query_starts[s], query_starts[s + 1])."""
    context_lens: tuple[int, ...]
    """Per sequence, its length once this step is computed: its last query sits at context_lens[s] - 1."""
    block_tables_SB: torch.Tensor
    """int64 page ids, padded with page 0: padding is never read past context_lens."""
    sample_rows_R: torch.Tensor
    """int64 rows of T whose logits are wanted, in the order of the sequences: the rows that are scored, then the one sampled."""

    def to(self, device: torch.device) -> Self:
        """With its tensors on that device: itself if they are there. The one place where a step gets there."""
        if self.slots_T.device == device:
            return self
        return replace(
            self,
            token_ids_T=self.token_ids_T.to(device),
            positions_T=self.positions_T.to(device),
            slots_T=self.slots_T.to(device),
            block_tables_SB=self.block_tables_SB.to(device),
            sample_rows_R=self.sample_rows_R.to(device),
        )


def build_batch(chunks: Sequence[Chunk], page_size: int) -> StepBatch:
    """Lay the chunks behind each other. The input of a decode may be the token that was sampled in the step before."""
    ends = list(accumulate(chunk.num_tokens for chunk in chunks))
    return StepBatch(
        token_ids_T=_int64(t for chunk in chunks for t in chunk.sequence.token_ids[chunk.start : chunk.end]),
        positions_T=_int64(position for chunk in chunks for position in range(chunk.start, chunk.end)),
        slots_T=_int64(slot for chunk in chunks for slot in _slots(chunk, page_size)),
        query_starts=(0, *ends),
        context_lens=tuple(chunk.end for chunk in chunks),
        block_tables_SB=_block_tables(chunks, page_size),
        sample_rows_R=_int64(row for chunk, end in zip(chunks, ends, strict=True) for row in _sample_rows(chunk, end)),
    )


def _sample_rows(chunk: Chunk, end_row: int) -> Iterable[int]:
    first_row = end_row - chunk.num_tokens
    yield from range(first_row, first_row + chunk.num_scored)
    if chunk.sample:
        yield end_row - 1


def _slots(chunk: Chunk, page_size: int) -> Iterable[int]:
    block_table = chunk.sequence.block_table
    for position in range(chunk.start, chunk.end):
        yield block_table[position // page_size] * page_size + position % page_size


def _block_tables(chunks: Sequence[Chunk], page_size: int) -> torch.Tensor:
    """Only the blocks that hold something: pages may be granted ahead."""
    tables = [chunk.sequence.block_table[: -(-chunk.end // page_size)] for chunk in chunks]
    width = max(map(len, tables))
    return torch.from_numpy(np.array([table + [0] * (width - len(table)) for table in tables], np.int64))


def _int64(values: Iterable[int]) -> torch.Tensor:
    """By way of numpy: torch.tensor would let other threads have Python's lock, for as long as they want it."""
    return torch.from_numpy(np.fromiter(values, np.int64))
