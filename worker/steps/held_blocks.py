"""The record of which block each page of KV memory holds, learned from the steps of schedulers.

It outlives streams and is reported at the start of each one. Blocks are opaque hashes here. The record reads from a step only
the blocks that it names and the pages that it will write to.
"""

from collections.abc import Iterable

from protos.v1 import worker_pb2

# This gives messages of about a hundred kilobytes.
_BLOCKS_PER_MESSAGE = 4096


class HeldBlocks:
    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._block_of: dict[int, bytes] = {}

    def apply(self, step: worker_pb2.Step) -> None:
        """Record the blocks that a step names and forget the pages that are idle or that it writes to.

        Called just before each step runs.
        """
        if step.idle_pages:
            self._forget(step.idle_pages)
        self._block_of.update((sealed.page_id, sealed.block_hash) for sealed in step.sealed_blocks)
        new = {sequence.sequence_id for sequence in step.new_sequences}
        for scheduled in step.scheduled:
            # A new sequence names its whole block table, but does not write to the pages before its start.
            num_shared = scheduled.start // self._page_size if scheduled.sequence_id in new else 0
            for page_id in scheduled.new_page_ids[num_shared:]:
                self._block_of.pop(page_id, None)

    def _forget(self, runs: Iterable[worker_pb2.PageRange]) -> None:
        end = 1 + max(self._block_of, default=-1)
        for run in runs:
            for page_id in range(run.first_page_id, min(run.first_page_id + run.num_pages, end)):
                self._block_of.pop(page_id, None)

    def clear(self) -> None:
        """Forget what all pages hold."""
        self._block_of.clear()

    def to_proto(self) -> list[worker_pb2.HeldBlocks]:
        """Return messages of limited size, with the blocks in the order in which they were learned.

        So the first blocks of a sequence come before its last ones.
        """
        blocks = [worker_pb2.PageBlock(page_id=page, block_hash=block) for page, block in self._block_of.items()]
        size = _BLOCKS_PER_MESSAGE
        return [worker_pb2.HeldBlocks(blocks=blocks[start : start + size]) for start in range(0, len(blocks), size)]
