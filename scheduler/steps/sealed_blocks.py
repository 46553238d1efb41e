"""The blocks that one worker's pages offer to others: from being sealed, which is safe before they are filled, to their being final
and named to the worker, which reports them after a reconnect.
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
        """Final once the result of this step has arrived."""
        self._not_final: set[BlockHash] = set()
        """Those blocks."""
        self._untold: list[tuple[PageId, BlockHash]] = []
        """Final blocks that no plan has named to the worker yet."""

    @property
    def has_untold(self) -> bool:
        return bool(self._untold)

    def add_blocks(self, blocks: Iterable[tuple[PageId, BlockHash]], step_id: int) -> None:
        """Add blocks that this step fills, or one before it, that was sent.

        Safe before the result arrives: whoever shares such a page is computed by a later step of the same stream.
        """
        for page, block in blocks:
            self._pool.seal_block(page, block)
            self._being_filled.append((step_id, page, block))
            self._not_final.add(block)

    def take_final(self, step_id: int) -> list[BlockHash]:
        """The blocks whose content is final now that the result of this step has been applied. The next plan names them too."""
        final = []
        while self._being_filled and self._being_filled[0][0] <= step_id:
            _, page, block = self._being_filled.popleft()
            self._not_final.discard(block)
            final.append((page, block))
        final = self._still_held(final)
        self._untold += final
        return [block for _, block in final]

    def count_final(self, blocks: Sequence[BlockHash]) -> int:
        """How many leading ones of these blocks, all of them here, are not still being computed."""
        return bisect.bisect_left(blocks, True, key=self._not_final.__contains__)

    def take_untold(self) -> tuple[tuple[PageId, BlockHash], ...]:
        """Called once the pages of the plan are granted: those among them have a new content to come."""
        untold, self._untold = self._untold, []
        return tuple(self._still_held(untold))

    def _still_held(self, pages: list[tuple[PageId, BlockHash]]) -> list[tuple[PageId, BlockHash]]:
        """Without pages that were evicted since, or whose block has its home in another page."""
        return [(page, block) for page, block in pages if self._pool.block_of(page) == block]
