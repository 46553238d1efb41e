"""The pages of one worker: which are used, which hold reusable blocks, and which are free.

A page is in exactly one of three states. *Used*: at least one sequence has it in its block table. *Cached*: no sequence uses it,
but it holds a named block that a later sequence may share; the least recently used page is evicted first. *Free*: neither.
Pages that stay free for a while, and blocks that no sequence uses for longer, need no memory: `collect_idle` finds them.
A pool uses memory only for pages that were granted, however many a worker claims to have.
"""

import bisect
import heapq
from collections import OrderedDict
from collections.abc import Iterable, KeysView, Sequence
from typing import NewType

from kvcache.block_hash import BlockHash

PageId = NewType("PageId", int)


MAX_RUNS = 256
"""Most runs of pages that are collected at once, since a worker returns the memory of each run in each layer."""


class OutOfPagesError(Exception):
    """More pages were requested than are free or cached. The planner checks that first, so this error is a bug."""


class PagePool:
    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._references: dict[PageId, int] = {}
        """Number of references to each used page."""
        self._block_of: dict[PageId, BlockHash] = {}
        self._page_of: dict[BlockHash, PageId] = {}
        self._freed: list[PageId] = []
        """Pages that were granted and are free again. A stack, so that the last freed page, still warm, is granted next."""
        self._num_idle = 0
        """Number of pages at the bottom of that stack that were free since the last `collect_idle`."""
        self._cold: list[PageId] = []
        """Free pages whose memory was collected, as a heap. Lowest ids are granted first."""
        self._num_collections = 0
        self._restored: set[PageId] = set()
        """Pages that were granted before this pool was created."""
        self._next_new = 0
        """First of the page ids that were never granted (except restored ones). Lowest ids are granted first."""
        self._cached: OrderedDict[PageId, int] = OrderedDict()
        """Cached pages, the least recently used first, with the number of collections before they were last used."""
        self._evicted: list[BlockHash] = []

    @property
    def num_free(self) -> int:
        return self.num_pages - len(self._references) - len(self._cached)

    @property
    def num_cached(self) -> int:
        return len(self._cached)

    @property
    def num_used(self) -> int:
        return len(self._references)

    @property
    def num_untouched(self) -> int:
        """Number of pages without memory: those that were never granted, or were collected."""
        return max(0, self.num_pages - self._next_new - len(self._restored)) + len(self._cold)

    @property
    def num_available(self) -> int:
        """Number of pages that `allocate_pages` can grant."""
        return self.num_pages - len(self._references)

    def num_references(self, page: PageId) -> int:
        return self._references.get(page, 0)

    def block_of(self, page: PageId) -> BlockHash | None:
        """Return the named block that the page holds, or None."""
        return self._block_of.get(page)

    @property
    def blocks(self) -> KeysView[BlockHash]:
        """A live view of all named blocks, in the order in which they were named."""
        return self._page_of.keys()

    def take_evicted(self) -> list[BlockHash]:
        """Return the blocks that were evicted since the last call, in order."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def match_blocks(self, blocks: Iterable[BlockHash]) -> list[PageId]:
        """Return the pages that hold the longest leading run of `blocks`. Valid until the next `allocate_pages`."""
        pages: list[PageId] = []
        for block in blocks:
            page = self._page_of.get(block)
            if page is None:
                break
            pages.append(page)
        return pages

    def count_held(self, blocks: Sequence[BlockHash]) -> int:
        """Count the leading `blocks` that the pool holds, by bisection: a quick estimate for many pools and long prompts.

        It assumes that a held block implies all blocks before it. The count is too high if an earlier block was evicted first,
        which can happen only if two sequences computed the same block at once.
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
        """Count the leading `blocks` that are in used pages, with the same estimate."""
        return bisect.bisect_left(blocks, True, key=lambda block: not self._is_used(block))

    def allocate_pages(self, num_pages: int) -> list[PageId]:
        """Grant pages with one reference each: free ones first, then the least recently used cached ones.

        Raises OutOfPagesError and grants nothing if fewer than `num_pages` are available.
        """
        if num_pages > self.num_available:
            raise OutOfPagesError(
                f"{num_pages} pages requested, but only {self.num_available} of {self.num_pages} are available"
            )
        pages = [self._grant() for _ in range(num_pages)]
        for page in pages:
            self._references[page] = 1
        return pages

    def share_pages(self, pages: Sequence[PageId]) -> None:
        """Add a reference to each of these matched pages. Cached ones become used."""
        for page in pages:
            references = self._references.get(page, 0)
            if references == 0:
                del self._cached[page]
            self._references[page] = references + 1

    def seal_block(self, page: PageId, block: BlockHash) -> None:
        """Name the content of a used page, so that others may share it.

        If another page holds the same block already, that page keeps the name and this one stays unnamed: block tables are
        append-only, so two sequences that computed the same block at once keep their own pages.
        """
        assert page in self._references and page not in self._block_of
        if block not in self._page_of:
            self._page_of[block] = page
            self._block_of[page] = block

    def release_pages(self, pages: Sequence[PageId]) -> None:
        """Remove one reference from each page of a block table, given in block order.

        The tail is freed first, so that a sequence's tail is evicted before the head that it depends on.
        """
        for page in reversed(pages):
            references = self._references[page] - 1
            if references > 0:
                self._references[page] = references
                continue
            del self._references[page]
            if page in self._block_of:
                self._cached[page] = self._num_collections
            else:
                self._freed.append(page)

    def restore_blocks(self, held: Iterable[tuple[PageId, BlockHash]]) -> None:
        """Mark pages of a new pool as cached with the blocks that they hold. The last ones in `held` are evicted first.

        If a page or a block occurs twice, its first pair counts. Raises ValueError for a page that does not exist.
        """
        assert not self._page_of and self._next_new == 0
        for page, block in held:
            if page >= self.num_pages:
                raise ValueError(f"page ids must be below {self.num_pages} (got {page})")
            if page not in self._block_of and block not in self._page_of:
                self._page_of[block] = page
                self._block_of[page] = block
        for page in reversed(self._page_of.values()):
            self._cached[page] = 0
        self._restored = set(self._block_of)

    def collect_idle(self, max_age: int, max_runs: int = MAX_RUNS) -> list[range]:
        """Return runs of pages that need no memory: they were free since the last call, or their block was not used since
        `max_age` calls.

        The blocks are evicted. A run also includes collected pages beside them, because memory is returned in larger units.
        At most `max_runs` runs are returned; the others follow with the next call.
        """
        self._num_collections += 1
        expired = []
        while self._cached and self._num_collections - next(iter(self._cached.values())) > max_age:
            expired.append(self._evict())
        idle = {*expired, *self._freed[: self._num_idle]}
        if not idle:
            self._num_idle = len(self._freed)
            return []
        runs = [run for run in _runs(sorted(idle.union(self._cold))) if not idle.isdisjoint(run)][:max_runs]
        collected = {page for run in runs for page in map(PageId, run) if page in idle}
        for page in collected:
            heapq.heappush(self._cold, page)
        # Expired pages that were not collected are the first next time.
        self._freed = [page for page in (*expired, *self._freed) if page not in collected]
        self._num_idle = len(self._freed)
        return runs

    def check_invariants(self) -> None:
        """Assert the invariants that hold between any two calls."""
        free, cached, used = self._free(), set(self._cached), set(self._references)
        assert 0 <= self._num_idle <= len(self._freed), "more idle pages than free ones"
        assert len(free) == len(set(free)) == self.num_free, "a page is free twice, or not counted"
        assert not cached & used and not used.union(cached) & set(free), "a page is in two states"
        assert len(free) + len(cached) + len(used) == self.num_pages, "a page is in no state"
        assert all(references > 0 for references in self._references.values()), "a used page has no reference"
        assert all(page not in self._block_of for page in free), "a free page has a name"
        assert all(page in self._block_of for page in cached), "a cached page has no name"
        assert {block: page for page, block in self._block_of.items()} == self._page_of, "names and pages disagree"

    def _free(self) -> list[PageId]:
        new = (PageId(page) for page in range(self._next_new, self.num_pages))
        return [*self._freed, *self._cold, *(page for page in new if page not in self._restored)]

    def _grant(self) -> PageId:
        if self._freed:
            page = self._freed.pop()
            self._num_idle = min(self._num_idle, len(self._freed))
            return page
        if self._cold:
            return heapq.heappop(self._cold)
        while self._next_new < self.num_pages:
            page = PageId(self._next_new)
            self._next_new += 1
            if page not in self._restored:
                return page
        return self._evict()

    def _is_used(self, block: BlockHash) -> bool:
        page = self._page_of.get(block)
        return page is not None and page in self._references

    def _evict(self) -> PageId:
        page, _ = self._cached.popitem(last=False)
        block = self._block_of.pop(page)
        del self._page_of[block]
        self._evicted.append(block)
        return page


def _runs(pages: Sequence[PageId]) -> list[range]:
    """Return the runs of consecutive ids in a sorted sequence."""
    runs: list[range] = []
    for page in pages:
        if runs and runs[-1].stop == page:
            runs[-1] = range(runs[-1].start, page + 1)
        else:
            runs.append(range(page, page + 1))
    return runs
