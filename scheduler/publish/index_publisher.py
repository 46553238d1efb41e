"""The publisher that writes the blocks of this scheduler's workers to the shared prefix index, in the background.

The loop's calls only add changes to a bounded queue. One task writes them, many blocks at a time. Lost changes are repaired: all
blocks are published again from time to time, and immediately if the index has forgotten this scheduler. If the index may still have
blocks that are gone, they are published under a new epoch, which voids all earlier entries.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from kvcache.block_hash import BlockHash
from kvcache.prefix_index import Holder, PrefixIndex, PublishResult
from scheduler.counters import IndexCounters
from scheduler.listeners import CacheListener
from scheduler.steps.worker_state import AttachedWorker

logger = logging.getLogger(__name__)

# A third of the index's lease and of its blocks' time to live, so that two tries may fail.
RENEW_S = 5.0
REFRESH_S = 200.0
# Interval at which due work is checked, and time for which changes are collected to be written together.
TICK_S = 1.0
GATHER_S = 0.05
# About a minute of a busy scheduler; some megabytes.
MAX_PENDING = 65_536
# Packing this many blocks blocks the event loop for a millisecond or two.
BLOCKS_PER_PUBLICATION = 512
CLOSE_LIMIT_S = 1.0


@dataclass(slots=True, eq=False)
class _Announced:
    """A worker that is published in the index."""

    worker: AttachedWorker
    holder: Holder
    renew_at_s: float = 0.0
    refresh_at_s: float = 0.0
    """Time at which all its blocks are published again."""
    is_doubtful: bool = False
    """True if the index may still have blocks that the worker no longer holds."""


class IndexPublisher(CacheListener):
    """The publisher of one scheduler. Run `run` until it is cancelled, then `close`."""

    def __init__(
        self,
        index: PrefixIndex,
        *,
        scheduler_id: str,
        counters: IndexCounters,
        max_pending: int = MAX_PENDING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._scheduler_id = scheduler_id
        self._counters = counters
        self._max_pending = max_pending
        self._clock = clock
        self._announced: dict[AttachedWorker, _Announced] = {}
        self._pending: OrderedDict[tuple[AttachedWorker, BlockHash], bool] = OrderedDict()
        """Changes that are not written yet, the oldest first: True if the worker holds the block now, False if not."""
        self._left: list[Holder] = []
        self._has_changed = asyncio.Event()
        self._last_epoch = 0

    # ---- the loop's side

    def worker_attached(self, worker: AttachedWorker) -> None:
        info = worker.info
        holder = Holder(
            model=info.model_digest,
            scheduler_id=self._scheduler_id,
            worker_id=info.worker_id,
            epoch=self._next_epoch(),
        )
        self._announced[worker] = _Announced(worker, holder)
        self._has_changed.set()

    def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
        for is_held, blocks in ((False, evicted), (True, sealed)):
            for block in blocks:
                self._pending[worker, block] = is_held
                self._pending.move_to_end((worker, block))
        while len(self._pending) > self._max_pending:
            (changed, _), is_held = self._pending.popitem(last=False)
            if changed in self._announced and not is_held:
                self._announced[changed].is_doubtful = True
            self._counters.num_dropped += 1
        if evicted or sealed:
            self._has_changed.set()

    def worker_detached(self, worker: AttachedWorker) -> None:
        announced = self._announced.pop(worker, None)
        if announced is not None:
            self._left.append(announced.holder)
            self._has_changed.set()

    def _next_epoch(self) -> int:
        # Epochs must grow. Within a process they do even if the clock is set back; between two processes, only a clock that is set
        # back by more than the time of a restart would matter.
        self._last_epoch = max(self._last_epoch + 1, time.time_ns() // 1_000_000)
        return self._last_epoch

    # ---- the writer

    async def run(self) -> None:
        """Write changes until cancelled. It may be run again after an exception."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._has_changed.wait()
            self._has_changed.clear()
            try:
                await self.write()
            except Exception:
                # The changes taken from the queue are lost, so the index may still have blocks that are gone.
                for announced in self._announced.values():
                    announced.is_doubtful = True
                raise
            await asyncio.sleep(GATHER_S)

    async def write(self) -> None:
        """Write all changes so far to the index, which may refuse some of them."""
        left, self._left = self._left, []
        for holder in left:
            await self._index.drop(holder)
        changes = self._take_pending()
        for announced in list(self._announced.values()):
            await self._update(announced, changes[announced.worker])
        self._counters.breaker_state = self._index.breaker_state

    async def close(self) -> None:
        """Drop all holders from the index if it answers in time; otherwise their leases expire."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_LIMIT_S):
                for holder in [*self._left, *(announced.holder for announced in self._announced.values())]:
                    await self._index.drop(holder)
        await self._index.close()

    def _take_pending(self) -> defaultdict[AttachedWorker, dict[BlockHash, bool]]:
        changes: defaultdict[AttachedWorker, dict[BlockHash, bool]] = defaultdict(dict)
        pending, self._pending = self._pending, OrderedDict()
        for (worker, block), is_held in pending.items():
            changes[worker][block] = is_held
        return changes

    async def _update(self, announced: _Announced, changes: dict[BlockHash, bool]) -> None:
        if announced.is_doubtful:
            self._begin_anew(announced)
        evicted = [block for block, is_held in changes.items() if not is_held]
        sealed = [block for block, is_held in changes.items() if is_held]
        for part in _parts(evicted):
            if not await self._index.withdraw(announced.holder, part):
                announced.is_doubtful = True
        # A renewal is an empty publication, with which the index also expires the leases of others.
        renewal: list[Seq[BlockHash]] = [[]] if self._clock() >= announced.renew_at_s else []
        results = [await self._publish(announced, part) for part in [*renewal, *_parts(sealed)]]
        if all(results) and self._clock() >= announced.refresh_at_s:
            await self._publish_all(announced)

    def _begin_anew(self, announced: _Announced) -> None:
        """Give the worker a new epoch, under which the index has no blocks yet and ignores all earlier ones."""
        announced.holder = replace(announced.holder, epoch=self._next_epoch())
        announced.is_doubtful = False
        announced.renew_at_s = announced.refresh_at_s = 0.0

    async def _publish_all(self, announced: _Announced) -> None:
        announced.refresh_at_s = self._clock() + REFRESH_S
        # This includes blocks that a step in flight still fills: the index is a hint, and may be a moment early.
        for part in _parts(list(announced.worker.pool.blocks)):
            if not await self._publish(announced, part):
                return

    async def _publish(self, announced: _Announced, blocks: Seq[BlockHash]) -> bool:
        """Publish blocks. Return True if the index accepted them."""
        if self._announced.get(announced.worker) is not announced:
            return False
        result = await self._index.publish(announced.holder, blocks)
        match result:
            case PublishResult.KNOWN | PublishResult.NEW:
                self._counters.num_published += len(blocks)
                announced.renew_at_s = announced.renew_at_s if blocks else self._clock() + RENEW_S
            case PublishResult.UNAVAILABLE:
                self._counters.num_dropped += len(blocks)
                announced.renew_at_s = 0.0
            case PublishResult.FENCED:
                fields = {"worker": announced.worker.info.worker_id}
                logger.warning(
                    "prefix index has a later epoch of the worker; its blocks are not published", extra=fields
                )
                self._announced.pop(announced.worker, None)
        if result in (PublishResult.NEW, PublishResult.UNAVAILABLE):
            # The index lacks blocks. All are published again after the next successful renewal.
            announced.refresh_at_s = 0.0
        return result in (PublishResult.KNOWN, PublishResult.NEW)


def _parts(blocks: Seq[BlockHash]) -> list[Seq[BlockHash]]:
    starts = range(0, len(blocks), BLOCKS_PER_PUBLICATION)
    return [blocks[start : start + BLOCKS_PER_PUBLICATION] for start in starts]
