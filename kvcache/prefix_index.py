"""Which scheduler and worker probably hold which blocks: the contract, and the index of a single process.

A hint, never the truth: a scheduler's page pools are that. A stale entry costs a hit, a missing one too, neither a wrong answer.
Gateways ask it which of several schedulers to prefer; schedulers publish what their workers hold. Knows no tokens and no pages.
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from typing import Protocol

from kvcache.block_hash import BlockHash
from kvcache.breaker import BreakerState


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One attachment of a worker to a scheduler."""

    model: str
    """The model's digest: only holders of the same model are ever compared."""
    scheduler_id: str
    """The address under which gateways reach the scheduler."""
    worker_id: str
    epoch: int
    """Higher for each later attachment of this worker to this scheduler, across restarts of both. Below 2^53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLimits:
    lease_s: float = 15.0
    """A holder that publishes nothing for this long, not even nothing, is forgotten."""
    block_ttl_s: float = 600.0
    """A block that nobody publishes again for this long is forgotten."""
    max_holders_per_block: int = 8
    """The latest to publish are kept. More than enough to choose from, and it bounds the memory of a block."""
    max_lookup_blocks: int = 2048
    """Of a longer prompt only so many leading blocks are looked up: enough to choose, and it bounds the time of a look-up."""


class PublishResult(Enum):
    KNOWN = auto()
    """Taken, and what this holder published before counts too."""
    NEW = auto()
    """Taken, but the index did not know the holder: what it published before may be lost and should be published again."""
    FENCED = auto()
    """Refused: a later epoch of this worker has published or this one was dropped. It should stop."""
    UNAVAILABLE = auto()
    """Not taken: the index can't be reached, or is full."""


class PrefixIndex(Protocol):
    """All calls are safe to lose: none raises when the index is slow, full, empty or gone."""

    @property
    def breaker_state(self) -> BreakerState:
        """Anything but closed means that look-ups find nothing and publishing is refused at once."""

    async def publish(self, holder: Holder, blocks: Sequence[BlockHash]) -> PublishResult:
        """Say that the holder has these blocks, and that it lives: its lease begins anew. With no blocks, leases of others that
        have passed are ended too: call it so now and then.

        Entries last until withdrawn, until the holder is dropped or a later epoch of it publishes, until its lease or the
        block's time to live has passed, or until `max_holders_per_block` others have published the block since.
        """

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> bool:
        """The holder no longer has these blocks. Changes nothing of a later epoch.

        False if the index can't be reached or is full: then they may go on to be found, until a later epoch makes them void.
        """

    async def drop(self, holder: Holder) -> None:
        """The holder is gone: its entries no longer count, and nothing of this or an older epoch is taken any more.

        The fence holds for `block_ttl_s` at most: a process frozen for longer may add entries again, until its lease passes.
        """

    async def lookup(self, model: str, blocks: Sequence[BlockHash]) -> Mapping[Holder, int]:
        """For each holder, how many of the leading `blocks` it has, up to `max_lookup_blocks`; none that lack the first.

        Valid for no time at all: by the time it is used the holder may have evicted any of them. Empty when in doubt.
        """

    async def close(self) -> None:
        """Give back connections. No call follows."""


def leading_runs(holders_of: Iterable[Collection[Holder]]) -> dict[Holder, int]:
    """From the holders of each block in order, how long a leading run each of them has.

    Long prompts have thousands of blocks with mostly the same holders: the same object again costs next to nothing.
    """
    runs: dict[Holder, int] = {}
    unbroken: set[Holder] | None = None
    previous: Collection[Holder] | None = None
    length = 0
    for holders in holders_of:
        if holders is not previous:
            remaining = set(holders) if unbroken is None else unbroken.intersection(holders)
            runs |= dict.fromkeys((unbroken or set()) - remaining, length)
            if not remaining:
                return runs
            unbroken, previous = remaining, holders
        length += 1
    return runs | dict.fromkeys(unbroken or (), length)


_Slot = tuple[str, str]
"""Scheduler and worker id: what the epochs of a holder count for."""


@dataclass(slots=True)
class _Fence:
    holder: Holder
    epoch: int
    """Nothing older is taken."""
    lives_until_s: float
    """Until then, entries of exactly this epoch count."""


@dataclass(slots=True)
class _Entry:
    holders: tuple[tuple[_Slot, int], ...]
    """Slot and epoch, the latest to publish first; one for each slot."""
    expires_s: float


@dataclass(slots=True)
class _ModelIndex:
    fences: dict[_Slot, _Fence] = field(default_factory=dict)
    entries: OrderedDict[BlockHash, _Entry] = field(default_factory=OrderedDict)
    """The first to expire first."""


class InMemoryPrefixIndex:
    """The index of one process: gone with it, never unavailable."""

    breaker_state = BreakerState.CLOSED

    def __init__(self, limits: IndexLimits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or IndexLimits()
        self._clock = clock
        self._models: defaultdict[str, _ModelIndex] = defaultdict(_ModelIndex)

    async def publish(self, holder: Holder, blocks: Sequence[BlockHash]) -> PublishResult:
        now_s, index, slot = self._clock(), self._models[holder.model], _slot(holder)
        self._forget_expired(index, now_s)
        fence = index.fences.get(slot)
        if fence is not None and fence.epoch > holder.epoch:
            return PublishResult.FENCED
        is_known = fence is not None and fence.epoch == holder.epoch and fence.lives_until_s > now_s
        index.fences[slot] = _Fence(holder, holder.epoch, now_s + self._limits.lease_s)
        for block in blocks:
            entry = index.entries.pop(block, None)
            others = _without(slot, entry.holders if entry else ())[: self._limits.max_holders_per_block - 1]
            index.entries[block] = _Entry(((slot, holder.epoch), *others), now_s + self._limits.block_ttl_s)
        return PublishResult.KNOWN if is_known else PublishResult.NEW

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> bool:
        index, slot = self._models[holder.model], _slot(holder)
        fence = index.fences.get(slot)
        if fence is not None and fence.epoch > holder.epoch:
            return True
        for block in blocks:
            entry = index.entries.get(block)
            if entry is not None:
                entry.holders = _without(slot, entry.holders)
                if not entry.holders:
                    del index.entries[block]
        return True

    async def drop(self, holder: Holder) -> None:
        index, slot = self._models[holder.model], _slot(holder)
        fence = index.fences.get(slot)
        if fence is None or fence.epoch <= holder.epoch:
            index.fences[slot] = _Fence(holder, holder.epoch + 1, self._clock())

    async def lookup(self, model: str, blocks: Sequence[BlockHash]) -> Mapping[Holder, int]:
        now_s, index = self._clock(), self._models[model]
        self._forget_expired(index, now_s)
        living = {
            (slot, fence.epoch): fence.holder for slot, fence in index.fences.items() if fence.lives_until_s > now_s
        }
        asked = blocks[: self._limits.max_lookup_blocks]
        items_of = (entry.holders if (entry := index.entries.get(block)) else () for block in asked)
        holders_of = cache(lambda items: [living[item] for item in items if item in living])
        return leading_runs(map(holders_of, items_of))

    async def close(self) -> None:
        self._models.clear()

    def _forget_expired(self, index: _ModelIndex, now_s: float) -> None:
        while index.entries and next(iter(index.entries.values())).expires_s <= now_s:
            index.entries.popitem(last=False)
        fences = index.fences.items()
        for slot in [slot for slot, fence in fences if fence.lives_until_s + self._limits.block_ttl_s <= now_s]:
            del index.fences[slot]


def _slot(holder: Holder) -> _Slot:
    return (holder.scheduler_id, holder.worker_id)


def _without(slot: _Slot, items: tuple[tuple[_Slot, int], ...]) -> tuple[tuple[_Slot, int], ...]:
    return tuple(item for item in items if item[0] != slot)
