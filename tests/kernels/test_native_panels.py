"""Tests that memory for packed weights is not shared, is aligned, and has the requested size."""

import gc

import pytest

from worker.kernels.native.panel_memory import ALIGNMENT, CHUNK_BYTES, PanelMemory


def test_each_taker_has_memory_of_its_own() -> None:
    pages, sizes = PanelMemory(), [1, 63, 64, 100_000, CHUNK_BYTES // 2, CHUNK_BYTES // 2 - 1, 7, CHUNK_BYTES + 5, 3]
    taken = [pages.take(size, "")[0] for size in sizes]
    assert [len(memory) for memory in taken] == sizes
    assert all(memory.data_ptr() % ALIGNMENT == 0 for memory in taken)
    for number, memory in enumerate(taken):
        memory.fill_(number)
    assert all(bool((memory == number).all()) for number, memory in enumerate(taken))


@pytest.mark.parametrize("size", [10, CHUNK_BYTES])
def test_memory_outlives_what_dealt_it_out(size: int) -> None:
    memory = PanelMemory().take(size, "")[0].fill_(5)
    gc.collect()
    assert bool((memory == 5).all())
