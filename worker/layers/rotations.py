"""The rotations of all layers of a model: one table of angles, or several if layers or queries differ.

Legend as in step_batch.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from pagoda.models.model import ModelConfig
from worker.kernels.interface import Kernels
from worker.layers.rope import Growth, RopeTable, Rotation, rope_frequencies


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotations:
    num_positions: int
    everywhere: RopeTable
    """Table of all layers, or of those without a sliding window if `local` is not None."""
    local: RopeTable | None
    """Table of the layers with a sliding window, if theirs differs."""
    queries: RopeTable | None
    """Table of the queries, if they grow with their position."""

    @classmethod
    def make(cls, config: ModelConfig, num_positions: int, device: torch.device, shorter: Self | None = None) -> Self:
        """Compute the tables. The rows of shorter ones are used again."""
        size, scaling = config.rotary_size or config.head_size, config.rope_scaling
        factor = 1.0 if scaling is None else scaling.attention_factor
        frequencies = rope_frequencies(size, config.rope_theta, scaling, config.max_position)
        has_local = config.rope_theta_local is not None and any(config.layer_uses_sliding_window)
        local_frequencies = rope_frequencies(size, config.rope_theta_local or config.rope_theta)
        growth = Growth(config.query_growth, config.query_growth_length) if config.query_growth else None

        known = (None, None, None) if shorter is None else (shorter.everywhere, shorter.local, shorter.queries)

        def table(
            frequencies: torch.Tensor, factor: float, growth: Growth | None, shorter: RopeTable | None
        ) -> RopeTable:
            return RopeTable.make(frequencies, num_positions, device, factor, growth, shorter)

        return cls(
            num_positions=num_positions,
            everywhere=table(frequencies, factor, None, known[0]),
            local=table(local_frequencies, 1.0, None, known[1]) if has_local else None,
            queries=table(frequencies, factor, growth, known[2]) if growth else None,
        )

    @property
    def num_bytes(self) -> int:
        return sum(table.num_bytes for table in self._tables())

    def of_layers(self, kernels: Kernels, config: ModelConfig, positions_T: torch.Tensor) -> Sequence[Rotation]:
        """Return the rotation of each layer."""
        everywhere = self.everywhere.rotation(kernels, positions_T)
        if self.queries is not None:
            queries = self.queries.rotation(kernels, positions_T)
            everywhere = Rotation(everywhere.cos_TH, everywhere.sin_TH, of_queries=queries)
        if self.local is None:
            return [everywhere] * config.num_layers
        local = self.local.rotation(kernels, positions_T)
        return [local if is_local else everywhere for is_local in config.layer_uses_sliding_window]

    def _tables(self) -> Iterator[RopeTable]:
        return (table for table in (self.everywhere, self.local, self.queries) if table is not None)
