"""The plan of the programs that one step's attention launches: a list for the decode kernels and one for prefill, on the device.

It is made once per step and used by all layers.

Legend as in step_batch.py, and D decoding sequences, W tiles of sequences that compute more than one token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from worker.kernels.step_batch import StepBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    decodes_D3: torch.Tensor
    """int32: the sequence, its row of the step, and the length of its context."""
    max_context: int
    """Longest context of the decoding sequences."""
    tiles_W4: torch.Tensor
    """int32: the sequence, the first row, the number of tokens, and the position of the first token."""


class LaunchPlanner:
    def __init__(self) -> None:
        self._made: tuple[StepBatch, int, LaunchPlan] | None = None

    def plan(self, batch: StepBatch, tile_tokens: int) -> LaunchPlan:
        made = self._made
        if made is None or made[0] is not batch or made[1] != tile_tokens:
            self._made = made = (batch, tile_tokens, plan_launches(batch, tile_tokens))
        return made[2]


def plan_launches(batch: StepBatch, tile_tokens: int) -> LaunchPlan:
    decodes, tiles = list(_decodes(batch)), list(_tiles(batch, tile_tokens))
    return LaunchPlan(
        decodes_D3=_int32(decodes, 3, batch.slots_T.device),
        max_context=max((context for _, _, context in decodes), default=0),
        tiles_W4=_int32(tiles, 4, batch.slots_T.device),
    )


def _decodes(batch: StepBatch) -> Iterator[tuple[int, int, int]]:
    for sequence, context in enumerate(batch.context_lens):
        start, end = batch.query_starts[sequence : sequence + 2]
        if end - start == 1:
            yield sequence, start, context


def _tiles(batch: StepBatch, tile_tokens: int) -> Iterator[tuple[int, int, int, int]]:
    for sequence, context in enumerate(batch.context_lens):
        start, end = batch.query_starts[sequence : sequence + 2]
        if end - start == 1:
            continue
        for row in range(start, end, tile_tokens):
            yield sequence, row, min(tile_tokens, end - row), context - (end - row)


def _int32(rows: Sequence[tuple[int, ...]], width: int, device: torch.device) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32).view(-1, width).to(device)
