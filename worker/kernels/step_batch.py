"""The flat batch of one step: the scheduled tokens of all sequences, one sequence after the other.

Legend, here and in layers/, models/ and kernels/: T tokens in the step, S sequences in it, R sampled rows, B blocks in
the longest block table, P page size, D hidden size, N heads (query or KV, depending on the variable), H head size,
V vocabulary.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    token_ids_T: torch.Tensor
    """int64."""
    positions_T: torch.Tensor
    """int64: each token's position in its sequence."""
    slots_T: torch.Tensor
    """int64: the slot of each token's keys and values, `page_id * page_size + offset`."""
    query_starts: tuple[int, ...]
    """S + 1 offsets into T: sequence s owns tokens [query_starts[s], query_starts[s + 1])."""
    context_lens: tuple[int, ...]
    """Length of each sequence once this step is computed; its last query is at position context_lens[s] - 1."""
    block_tables_SB: torch.Tensor
    """int64 page ids, padded with page 0; the padding lies past context_lens and is never used."""
    sample_rows_R: torch.Tensor
    """int64 rows of T whose logits are needed, in the order of the sequences: the scored rows, then the sampled one."""

    def to(self, device: torch.device) -> Self:
        """Return the batch with its tensors on `device`, itself if they are there. Only this function moves a step's tensors."""
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
