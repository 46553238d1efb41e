"""The truth about one worker's pages: who uses them, which hold reusable blocks, which are free.

A page is in exactly one of three states. *Used*: at least one sequence has it in its block table. *Cached*: nobody uses it,
but it holds a named block that a later sequence may share; the least recently used one is evicted first. *Free*: neither.
Knows nothing about sequences, tensors or other workers.
"""

import bisect
from collections import OrderedDict
from collections.abc import Iterable, KeysView, Sequence
from typing import NewType

from kvcache.block_hash import BlockHash

PageId = NewType("PageId", int)


class OutOfPagesError(Exception):
    """More pages were asked for than are free or cached. The planner asks first, so this is a mistake of ours."""


class PagePool:
    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._references = [0] * num_pages
        self._block_of: list[BlockHash | None] = [None] * num_pages
        self._page_of: dict[BlockHash, PageId] = {}
        # Lowest ids go first; a stack, so that a page just freed (still warm) is granted next.
        self._free = [PageId(page) for page in reversed(range(num_pages))]
        self._cached: OrderedDict[PageId, None] = OrderedDict()
        self._evicted: list[BlockHash] = []

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_pages - len(self._free) - len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `allocate` can grant."""
        return len(self._free) + len(self._cached)

    def num_references(self, page: PageId) -> int:
        return self._references[page]

    def block_of(self, page: PageId) -> BlockHash | None:
        """The named block that the page holds."""
        return self._block_of[page]

    @property
    def blocks(self) -> KeysView[BlockHash]:
        """All named blocks, the first named first: as they are when it is looked at."""
        return self._page_of.keys()

    def take_evicted(self) -> list[BlockHash]:
        """The blocks that were evicted since the last call, in order."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def match(self, blocks: Iterable[BlockHash]) -> list[PageId]:
        """The pages that hold the longest leading run of `blocks`. Changes nothing: valid until the next allocate."""
        pages: list[PageId] = []
        for block in blocks:
            page = self._page_of.get(block)
            if page is None:
                break
            pages.append(page)
        return pages

    def holds(self, block: BlockHash) -> bool:
        return block in self._page_of

    def count_held(self, blocks: Sequence[BlockHash]) -> int:
        """How many leading `blocks` are here, by bisection: a quick estimate for many pools and long prompts.

        One block stands for all before it. That is so unless an earlier one was evicted first, which can only happen where two
        sequences computed the same block at once; then it is too many.
        """
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            if blocks[middle] in self._page_of:
                low = middle + 1
            else:
                high = middle
        return low

    def count_used(self, blocks: Sequence[BlockHash]) -> int:
        """How many leading `blocks` are in pages that somebody uses, likewise."""
        return bisect.bisect_left(blocks, True, key=lambda block: not self._is_used(block))

    def allocate(self, num_pages: int) -> list[PageId]:
        """Grant pages with one reference each: free ones first, then the least recently used cached ones.

        Raises OutOfPagesError, and grants nothing, when fewer than `num_pages` are available.
        """
        if num_pages > self.num_available:
            raise OutOfPagesError(f"{num_pages} pages asked for, {self.num_available} of {self.num_pages} available")
        pages = [self._free.pop() if self._free else self._evict() for _ in range(num_pages)]
        for page in pages:
            self._references[page] = 1
        return pages

    def share(self, pages: Sequence[PageId]) -> None:
        """Add a reference to each of these matched pages; cached ones become used."""
        for page in pages:
            if self._references[page] == 0:
                del self._cached[page]
            self._references[page] += 1

    def seal(self, page: PageId, block: BlockHash) -> None:
        """Name the content of a used page, so that others may share it.

        When another page holds the same block already, that one stays the block's page and this one stays nameless:
        block tables are append-only, so two sequences that computed the same block at once keep their own pages.
        """
        assert self._references[page] > 0 and self._block_of[page] is None
        if block not in self._page_of:
            self._page_of[block] = page
            self._block_of[page] = block

    def release(self, pages: Sequence[PageId]) -> None:
        """Drop one reference to each page of a block table, given in block order.

        Freed tail first, so that of one sequence the tail is evicted before the head that it depends on.
        """
        for page in reversed(pages):
            self._references[page] -= 1
            assert self._references[page] >= 0
            if self._references[page] > 0:
                continue
            if self._block_of[page] is None:
                self._free.append(page)
            else:
                self._cached[page] = None

    def restore(self, held: Iterable[tuple[PageId, BlockHash]]) -> None:
        """Name pages of a pool that has granted none yet: they become cached. The last ones given are evicted first.

        A page or a block that is named twice keeps its first name. Raises ValueError for a page that does not exist.
        """
        assert self.num_used == 0
        for page, block in held:
            if page >= self.num_pages:
                raise ValueError(f"page {page} is named, of {self.num_pages} pages")
            if self._block_of[page] is None and block not in self._page_of:
                self._page_of[block] = page
                self._block_of[page] = block
        for page in reversed(self._page_of.values()):
            self._cached[page] = None
        self._free = [page for page in self._free if self._block_of[page] is None]

    def check(self) -> None:
        """Assert what must hold between any two calls."""
        free, cached = set(self._free), set(self._cached)
        used = {page for page in range(self.num_pages) if self._references[page] > 0}
        assert len(free) == len(self._free), "a page is in the free list twice"
        assert not free & cached and not free & used and not cached & used, "a page is in two states"
        assert len(free) + len(cached) + len(used) == self.num_pages, "a page is in no state"
        assert all(self._block_of[page] is None for page in free), "a free page has a name"
        assert all(self._block_of[page] is not None for page in cached), "a cached page has no name"
        named = {block: page for page, block in enumerate(self._block_of) if block is not None}
        assert named == self._page_of, "names and pages disagree"

    def _is_used(self, block: BlockHash) -> bool:
        page = self._page_of.get(block)
        return page is not None and self._references[page] > 0

    def _evict(self) -> PageId:
        page, _ = self._cached.popitem(last=False)
        block = self._block_of[page]
        assert block is not None
        del self._page_of[block]
        self._block_of[page] = None
        self._evicted.append(block)
        return page
