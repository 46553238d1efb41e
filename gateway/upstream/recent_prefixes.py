"""The prefixes that this gateway has sent lately, and to which scheduler: speculative entries beside the shared prefix index.

They name a prefix before its blocks are computed and published, and they are all there is without a shared index or while that
is down.
"""

from collections import OrderedDict
from collections.abc import Sequence

from kvcache.block_hash import BlockHash

# About a million tokens in some ten megabytes: more than most schedulers' workers can cache.
MAX_REMEMBERED_BLOCKS = 65_536


class RecentPrefixes:
    """The scheduler to which each block was sent last. Bounded: the longest unused ones are forgotten, tails before heads."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._address_of: OrderedDict[BlockHash, str] = OrderedDict()

    def leading_runs(self, blocks: Sequence[BlockHash]) -> dict[str, int]:
        """Return how many leading blocks each scheduler got: all up to the last one sent there, whose name covers them."""
        runs: dict[str, int] = {}
        for length, block in enumerate(blocks, start=1):
            address = self._address_of.get(block)
            if address is None:
                break
            runs[address] = length
        return runs

    def remember_prefix(self, blocks: Sequence[BlockHash], address: str) -> None:
        for block in reversed(blocks):
            self._address_of[block] = address
            self._address_of.move_to_end(block)
        while len(self._address_of) > self._max_blocks:
            self._address_of.popitem(last=False)
