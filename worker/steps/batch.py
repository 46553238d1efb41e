"""A pure function that builds the flat batch of one step from its chunks. The legend is in kernels/step_batch.py."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
import torch

from worker.kernels.step_batch import StepBatch
from worker.steps.sequence import Chunk


def build_batch(chunks: Sequence[Chunk], page_size: int) -> StepBatch:
    """Return a batch with the chunks one after the other. The input of a decode may be the token sampled one step earlier."""
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
    if chunk.is_sampled:
        yield from range(end_row - 1 - chunk.num_forced_rows, end_row)


def _slots(chunk: Chunk, page_size: int) -> Iterable[int]:
    block_table = chunk.sequence.block_table
    for position in range(chunk.start, chunk.end):
        yield block_table[position // page_size] * page_size + position % page_size


def _block_tables(chunks: Sequence[Chunk], page_size: int) -> torch.Tensor:
    """Return the block tables without pages that are still empty, since pages may be granted ahead."""
    tables = [chunk.sequence.block_table[: -(-chunk.end // page_size)] for chunk in chunks]
    width = max(map(len, tables))
    return torch.from_numpy(np.array([table + [0] * (width - len(table)) for table in tables], np.int64))


def _int64(values: Iterable[int]) -> torch.Tensor:
    """Return an int64 tensor, made with numpy: torch.tensor would release Python's lock to other threads."""
    return torch.from_numpy(np.fromiter(values, np.int64))
