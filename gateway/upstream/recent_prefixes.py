"""The prefixes that this gateway sent recently, and to which scheduler: speculative entries beside the shared prefix index.

They exist before a prefix's blocks are computed and published. Without a shared index, or while it is down, they are the only
source.
"""

from collections import OrderedDict
from collections.abc import Sequence

from kvcache.block_hash import BlockHash

# About a million tokens, in about ten megabytes: more than the workers of most schedulers can cache.
MAX_REMEMBERED_BLOCKS = 65_536


class RecentPrefixes:
    """A bounded map from each block to the scheduler that it was sent to last.

    The least recently used blocks are forgotten first, and the last blocks of a prefix before its first ones.
    """

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._address_of: OrderedDict[BlockHash, str] = OrderedDict()

    def leading_runs(self, blocks: Sequence[BlockHash]) -> dict[str, int]:
        """Return how many leading blocks were sent to each scheduler. The hash of the last one covers all blocks before it."""
        runs: dict[str, int] = {}
        for length, block in enumerate(blocks, start=1):
            address = self._address_of.get(block)
            if address is None:
                break
            runs[address] = length
        return runs

    def remember_prefix(self, blocks: Sequence[BlockHash], address: str) -> None:
        """Record that a prompt with these leading blocks was sent to this scheduler."""
        for block in reversed(blocks):
            self._address_of[block] = address
            self._address_of.move_to_end(block)
        while len(self._address_of) > self._max_blocks:
            self._address_of.popitem(last=False)
