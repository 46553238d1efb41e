"""Tests of PagePool: examples of the eviction order, and its invariants under any sequence of calls."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvcache.block_hash import BlockHash
from kvcache.page_pool import OutOfPagesError, PageId, PagePool


def block(name: int) -> BlockHash:
    return BlockHash(name.to_bytes(16, "big"))


def sealed(pool: PagePool, *names: int) -> list[PageId]:
    pages = pool.allocate_pages(len(names))
    for page, name in zip(pages, names, strict=True):
        pool.seal_block(page, block(name))
    return pages


def test_a_released_block_is_found_again_and_shared() -> None:
    pool = PagePool(4)
    pages = sealed(pool, 1, 2)
    pool.release_pages(pages)
    assert (pool.num_free, pool.num_cached, pool.num_used) == (2, 2, 0)
    assert pool.match_blocks([block(1), block(2), block(3)]) == pages
    pool.share_pages(pages)
    assert (pool.num_free, pool.num_cached, pool.num_used) == (2, 0, 2)


def test_a_match_stops_at_the_first_block_that_nobody_holds() -> None:
    pool = PagePool(4)
    pages = sealed(pool, 1, 3)
    assert pool.match_blocks([block(1), block(2), block(3)]) == pages[:1]


@pytest.mark.parametrize("num_used", range(6))
def test_leading_blocks_are_counted_without_a_look_at_each(num_used: int) -> None:
    pool = PagePool(8)
    pages = sealed(pool, 1, 2, 3, 4, 5)
    pool.release_pages(pages[num_used:])
    for first, end in [(1, 6), (1, 4), (2, 9), (6, 9), (3, 3)]:
        asked = [block(name) for name in range(first, end)]
        assert pool.count_held(asked) == len(pool.match_blocks(asked))
        assert pool.count_used(asked) == len([name for name in range(first, end) if name <= num_used])


def test_the_least_recently_used_sequence_is_evicted_first_and_its_tail_before_its_head() -> None:
    pool = PagePool(4)
    first, second = sealed(pool, 1, 2), sealed(pool, 3, 4)
    pool.release_pages(second)
    pool.release_pages(first)
    assert pool.allocate_pages(3) == [second[1], second[0], first[1]]
    assert pool.match_blocks([block(1)]) == first[:1]


def test_free_pages_are_granted_before_cached_ones_are_evicted() -> None:
    pool = PagePool(2)
    pool.release_pages(sealed(pool, 1))
    pool.allocate_pages(1)
    assert pool.num_cached == 1


def test_a_page_in_use_is_never_evicted() -> None:
    pool = PagePool(2)
    sealed(pool, 1, 2)
    with pytest.raises(OutOfPagesError, match="1 pages requested, but only 0 of 2 are available"):
        pool.allocate_pages(1)


def test_a_block_computed_twice_keeps_its_first_page() -> None:
    pool = PagePool(2)
    first, second = sealed(pool, 1), sealed(pool, 1)
    assert pool.match_blocks([block(1)]) == first
    pool.release_pages(second)
    assert (pool.num_free, pool.num_cached) == (1, 0)


def test_a_restored_pool_has_its_blocks_cached_and_gives_up_the_last_ones_first() -> None:
    pool = PagePool(5)
    pool.restore_blocks([(PageId(3), block(1)), (PageId(0), block(2)), (PageId(4), block(3))])
    pool.check_invariants()
    assert (pool.num_free, pool.num_cached) == (2, 3)
    assert pool.match_blocks([block(1), block(2)]) == [3, 0]
    assert pool.allocate_pages(4) == [1, 2, 4, 0]
    assert pool.take_evicted() == [block(3), block(2)]
    assert pool.take_evicted() == []
    assert list(pool.blocks) == [block(1)] and pool.block_of(PageId(3)) == block(1)


def test_what_is_restored_twice_keeps_its_first_name_and_a_strange_page_is_refused() -> None:
    pool = PagePool(3)
    pool.restore_blocks([(PageId(0), block(1)), (PageId(1), block(1)), (PageId(0), block(2))])
    pool.check_invariants()
    assert pool.num_cached == 1 and pool.match_blocks([block(1)]) == [0]
    with pytest.raises(ValueError, match=r"page ids must be below 3 \(got 3\)"):
        PagePool(3).restore_blocks([(PageId(3), block(1))])


def test_pages_that_stay_free_are_collected_and_granted_last() -> None:
    pool = PagePool(8)
    pages = pool.allocate_pages(6)
    assert pool.num_untouched == 2
    pool.release_pages(pages)
    assert pool.collect_idle(10) == [], "they were free for no interval yet"
    warm = pool.allocate_pages(2)
    pool.release_pages(warm)
    assert warm == [0, 1]
    assert pool.collect_idle(10) == [range(2, 6)]
    assert pool.num_untouched == 6
    assert pool.collect_idle(10) == [range(6)], "a run includes its neighbours"
    assert pool.collect_idle(10) == []
    assert pool.allocate_pages(8) == [0, 1, 2, 3, 4, 5, 6, 7]
    pool.check_invariants()


def test_blocks_that_are_not_used_expire_with_their_pages() -> None:
    pool = PagePool(4)
    old, new = sealed(pool, 1), sealed(pool, 2)
    pool.release_pages(old)
    assert pool.collect_idle(2) == []
    pool.release_pages(new)
    assert pool.collect_idle(2) == []
    assert pool.collect_idle(2) == [range(1)]
    assert pool.take_evicted() == [block(1)]
    pool.share_pages(new)
    pool.release_pages(new)
    assert pool.collect_idle(2) == [] == pool.collect_idle(2)
    assert pool.collect_idle(2) == [range(2)]
    assert pool.num_cached == 0 and pool.num_untouched == 4
    pool.check_invariants()


def test_no_more_runs_are_collected_at_once_than_asked_for() -> None:
    pool = PagePool(6)
    pages = pool.allocate_pages(6)
    pool.release_pages(pages[::2])
    pool.collect_idle(1)
    assert pool.collect_idle(1, max_runs=2) == [range(1), range(2, 3)]
    pool.check_invariants()
    assert pool.collect_idle(1, max_runs=2) == [range(4, 5)]
    assert pool.collect_idle(1) == []


class PoolMachine(RuleBasedStateMachine):
    """A machine of sequences that allocate, share, fill and release pages in any order."""

    @initialize(num_pages=st.integers(1, 12), held=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8))))
    def make(self, num_pages: int, held: list[tuple[int, int]]) -> None:
        self.pool = PagePool(num_pages)
        self.pool.restore_blocks((PageId(page % num_pages), block(name)) for page, name in held)
        self.tables: list[list[PageId]] = []
        self.named = {page for page in map(PageId, range(num_pages)) if self.pool.block_of(page) is not None}
        self.known = set(self.pool.blocks)

    @rule(num_pages=st.integers(0, 6))
    def allocate(self, num_pages: int) -> None:
        if num_pages > self.pool.num_available:
            before = (self.pool.num_free, self.pool.num_cached)
            with pytest.raises(OutOfPagesError):
                self.pool.allocate_pages(num_pages)
            assert (self.pool.num_free, self.pool.num_cached) == before
            return
        pages = self.pool.allocate_pages(num_pages)
        held = {page for table in self.tables for page in table}
        assert len(set(pages)) == num_pages and not held & set(pages), "a page was granted to two writers"
        self.named -= set(pages)
        self.tables.append(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), name=st.integers(0, 8))
    def seal(self, data: st.DataObject, name: int) -> None:
        nameless = [page for table in self.tables for page in table if page not in self.named]
        if nameless:
            page = data.draw(st.sampled_from(nameless))
            known = self.pool.match_blocks([block(name)])
            self.pool.seal_block(page, block(name))
            assert self.pool.match_blocks([block(name)]) == (known or [page])
            if not known:
                self.named.add(page)
                self.known.add(block(name))

    @rule(names=st.lists(st.integers(0, 8), unique=True, max_size=4))
    def share(self, names: list[int]) -> None:
        pages = self.pool.match_blocks([block(name) for name in names])
        self.pool.share_pages(pages)
        self.tables.append(pages)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.release_pages(table)

    @rule(max_age=st.integers(1, 3), max_runs=st.integers(1, 3))
    def collect(self, max_age: int, max_runs: int) -> None:
        runs = self.pool.collect_idle(max_age, max_runs)
        idle = {page for run in runs for page in map(PageId, run)}
        assert not idle.intersection(page for table in self.tables for page in table), "a page in use is called idle"
        assert all(self.pool.block_of(page) is None for page in idle), "a page with a block is called idle"
        assert len(runs) <= max_runs
        self.named = {page for page in self.named if self.pool.block_of(page) is not None}

    @invariant()
    def pages_add_up(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.pool.check_invariants()
        self.known -= set(self.pool.take_evicted())
        assert self.known == set(self.pool.blocks), "a block came or went unseen"
        held = {page for table in self.tables for page in table}
        assert self.pool.num_used == len(held)
        assert self.pool.num_free + self.pool.num_cached + self.pool.num_used == self.pool.num_pages
        for page in held:
            assert self.pool.num_references(page) == sum(table.count(page) for table in self.tables)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
