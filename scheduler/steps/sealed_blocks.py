"""The sealed (full and shareable) blocks of one worker. A block is sealed when the step that fills it is sent, and final when the
step's result is applied. Final blocks are sent to the worker, which reports them after a reconnect.
"""

import bisect
from collections import deque
from collections.abc import Iterable, Sequence

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId, PagePool


class SealedBlocks:
    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._being_filled: deque[tuple[int, PageId, BlockHash]] = deque()
        """Sealed blocks that become final with the result of the given step, as (step id, page, block)."""
        self._not_final: set[BlockHash] = set()
        """The blocks in `_being_filled`."""
        self._untold: list[tuple[PageId, BlockHash]] = []
        """Final blocks that no plan has sent to the worker yet."""

    @property
    def has_untold(self) -> bool:
        return bool(self._untold)

    def add_blocks(self, blocks: Iterable[tuple[PageId, BlockHash]], step_id: int) -> None:
        """Add blocks that this step or an earlier one fills.

        Sharing them is safe before the result arrives, because a sequence that shares such a page is computed by a later step.
        """
        for page, block in blocks:
            self._pool.seal_block(page, block)
            self._being_filled.append((step_id, page, block))
            self._not_final.add(block)

    def take_final(self, step_id: int) -> list[BlockHash]:
        """Return the blocks that are final because the result of this step was applied. The next plan sends them to the worker."""
        final = []
        while self._being_filled and self._being_filled[0][0] <= step_id:
            _, page, block = self._being_filled.popleft()
            self._not_final.discard(block)
            final.append((page, block))
        final = self._still_held(final)
        self._untold += final
        return [block for _, block in final]

    def count_final(self, blocks: Sequence[BlockHash]) -> int:
        """Return the number of leading blocks that are final. All of `blocks` are in the pool."""
        return bisect.bisect_left(blocks, True, key=self._not_final.__contains__)

    def take_untold(self) -> tuple[tuple[PageId, BlockHash], ...]:
        """Return the blocks to send with the next plan. Call it after the plan's pages are granted, since those get new content."""
        untold, self._untold = self._untold, []
        return tuple(self._still_held(untold))

    def _still_held(self, pages: list[tuple[PageId, BlockHash]]) -> list[tuple[PageId, BlockHash]]:
        """Return `pages` without those that were evicted since, or whose block is kept in another page."""
        return [(page, block) for page, block in pages if self._pool.block_of(page) == block]
