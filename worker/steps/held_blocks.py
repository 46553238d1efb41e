"""Which block each page of the KV memory holds, as schedulers have said. It outlives streams and is reported when one begins.

Blocks are opaque here. Knows nothing about sequences and tensors: it reads only which pages a step will write to.
"""

from protos.v1 import worker_pb2

# A message of about a hundred kilobytes.
_BLOCKS_PER_MESSAGE = 4096


class HeldBlocks:
    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._block_of: dict[int, bytes] = {}

    def apply(self, step: worker_pb2.Step) -> None:
        """Call for each step in order, just before it runs: what it writes to is no longer what it was."""
        self._block_of.update((sealed.page_id, sealed.block_hash) for sealed in step.sealed_blocks)
        new = {sequence.sequence_id for sequence in step.new_sequences}
        for scheduled in step.scheduled:
            # A sequence that is new here names its whole block table, and does not write to the pages before its start.
            num_shared = scheduled.start // self._page_size if scheduled.sequence_id in new else 0
            for page_id in scheduled.new_page_ids[num_shared:]:
                self._block_of.pop(page_id, None)

    def clear(self) -> None:
        """Trust no page any more."""
        self._block_of.clear()

    def to_proto(self) -> list[worker_pb2.HeldBlocks]:
        """In messages of a good size, blocks in the order in which they were learned: heads of sequences before their tails."""
        blocks = [worker_pb2.PageBlock(page_id=page, block_hash=block) for page, block in self._block_of.items()]
        size = _BLOCKS_PER_MESSAGE
        return [worker_pb2.HeldBlocks(blocks=blocks[start : start + size]) for start in range(0, len(blocks), size)]
