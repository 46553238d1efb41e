"""Who hears what the workers' caches hold: a protocol, so that the loop knows nothing of a prefix index."""

from collections.abc import Sequence as Seq
from typing import Protocol

from kvcache.block_hash import BlockHash
from scheduler.steps.worker_state import AttachedWorker


class CacheListener(Protocol):
    """Calls return at once."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        """Perhaps with blocks in its pool that it had kept."""

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        """With a step's result some blocks became final; before that some others had to go."""

    def worker_detached(self, worker: AttachedWorker) -> None: ...


class NobodyListens:
    """A `CacheListener` for a loop without a prefix index."""

    def worker_attached(self, worker: AttachedWorker) -> None:
        pass

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        pass

    def worker_detached(self, worker: AttachedWorker) -> None:
        pass
