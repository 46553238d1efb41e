"""The prefix index, which says which scheduler and worker probably hold which blocks: its protocol, and one for a single process.

It is only a hint; the truth is in the schedulers' page pools. A stale or missing entry costs a cache hit, but never a wrong answer.
Schedulers publish the blocks of their workers, and gateways look up which of several schedulers to prefer.
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
    """Digest of the model. Only holders of the same model are compared."""
    scheduler_id: str
    """Address of the scheduler for gateways."""
    worker_id: str
    epoch: int
    """Number that grows with each attachment of this worker to this scheduler, across restarts of both. Below 2^53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexLimits:
    lease_s: float = 15.0
    """Seconds after which a holder that has made no `publish` call is forgotten."""
    block_ttl_s: float = 600.0
    """Seconds after which a block that was not published again is forgotten."""
    max_holders_per_block: int = 8
    """Maximum number of holders of a block; the latest to publish are kept. It bounds the memory of a block."""
    max_lookup_blocks: int = 2048
    """Maximum number of leading blocks that are looked up for a prompt. It bounds the time of a look-up."""


class PublishResult(Enum):
    KNOWN = auto()
    """Accepted, and the earlier blocks of this holder count too."""
    NEW = auto()
    """Accepted, but the index did not know the holder. Its earlier blocks may be lost and should be published again."""
    FENCED = auto()
    """Refused, because a later epoch of this worker has published or this one was dropped. The holder should stop."""
    UNAVAILABLE = auto()
    """Not accepted, because the index cannot be reached or is full."""


class PrefixIndex(Protocol):
    """A prefix index. No call raises if the index is slow, full, empty or gone."""

    @property
    def breaker_state(self) -> BreakerState:
        """State of the circuit breaker. Unless it is closed, look-ups find nothing and `publish` is refused immediately."""

    async def publish(self, holder: Holder, blocks: Sequence[BlockHash]) -> PublishResult:
        """Add blocks of the holder and renew its lease. A call without blocks also ends expired leases of others, so every holder
        should make one from time to time.

        An entry lasts until it is withdrawn, the holder is dropped, a later epoch of it publishes, its lease or the block's time to
        live ends, or `max_holders_per_block` others publish the block.
        """

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> bool:
        """Remove blocks that the holder no longer has. Entries of a later epoch do not change.

        Return False if the index cannot be reached or is full: the blocks may then still be found until a later epoch publishes.
        """

    async def drop(self, holder: Holder) -> None:
        """Void all entries of a holder that is gone, and accept nothing more of this or an older epoch.

        The fence lasts for at most `block_ttl_s`: a process that was frozen for longer may add entries until its lease ends.
        """

    async def lookup(self, model: str, blocks: Sequence[BlockHash]) -> Mapping[Holder, int]:
        """Return how many of the leading `blocks` each holder has, up to `max_lookup_blocks`. Holders of none are omitted.

        The result is a snapshot: the holder may evict any block at any time. It is empty if the index does not answer.
        """

    async def close(self) -> None:
        """Close all connections. No call may follow."""


def leading_runs(holders_of: Iterable[Collection[Holder]]) -> dict[Holder, int]:
    """Return the number of leading blocks that each holder has, given the holders of each block in order.

    Long prompts have thousands of blocks with mostly the same holders; an object that repeats costs next to nothing.
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
"""Scheduler and worker id, for which epochs are counted."""


@dataclass(slots=True)
class _Fence:
    holder: Holder
    epoch: int
    """Lowest epoch that is accepted."""
    lives_until_s: float
    """Time until which entries of exactly this epoch count."""


@dataclass(slots=True)
class _Entry:
    holders: tuple[tuple[_Slot, int], ...]
    """Slots and epochs, the latest to publish first; one for each slot."""
    expires_s: float


@dataclass(slots=True)
class _ModelIndex:
    fences: dict[_Slot, _Fence] = field(default_factory=dict)
    entries: OrderedDict[BlockHash, _Entry] = field(default_factory=OrderedDict)
    """Entries in the order in which they expire."""


class InMemoryPrefixIndex:
    """A prefix index within one process. It ends with the process and is never unavailable."""

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
