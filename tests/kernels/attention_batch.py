"""Batches for tests of attention: sequences of given lengths, with their pages in random order."""

from collections.abc import Sequence

import torch

from worker.kernels.step_batch import StepBatch

NUM_PAGES = 256


def attention_batch(plan: Sequence[tuple[int, int]], page_size: int) -> tuple[StepBatch, StepBatch]:
    """Return the batch of only the step's queries, and the batch that writes all keys of the contexts.

    `plan` has, for each sequence, the number of queries of this step and the length of the context including them.
    """
    generator = torch.Generator().manual_seed(3)
    num_pages = [-(-context // page_size) for _, context in plan]
    pages = torch.split(torch.randperm(NUM_PAGES, generator=generator)[: sum(num_pages)], num_pages)
    tables = torch.zeros(len(plan), max(num_pages) + 2, dtype=torch.int64)
    slots = []
    for table, own, (_, context) in zip(tables, pages, plan, strict=True):
        table[: len(own)] = own
        positions = torch.arange(context)
        slots.append(own[positions // page_size] * page_size + positions % page_size)

    def batch(lengths: list[int]) -> StepBatch:
        starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        last = [slot[-length:] for slot, length in zip(slots, lengths, strict=True)]
        return StepBatch(
            token_ids_T=torch.zeros(starts[-1], dtype=torch.int64),
            positions_T=torch.zeros(starts[-1], dtype=torch.int64),
            slots_T=torch.cat(last),
            query_starts=tuple(starts),
            context_lens=tuple(context for _, context in plan),
            block_tables_SB=tables,
            sample_rows_R=torch.arange(starts[-1]),
        )

    return batch([length for length, _ in plan]), batch([context for _, context in plan])
