"""Which scheduler and worker probably hold which blocks: the contract, and the index of a single process.

A hint, never the truth: a scheduler's page pools are that. A stale entry costs a hit, a missing one too, neither a wrong answer.
Gateways ask it which of several schedulers to prefer; schedulers publish what their workers hold. Knows no tokens and no pages.
"""

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
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
        """Say that the holder has these blocks, and that it lives: its lease begins anew, with no blocks too.

        Entries last until withdrawn, until the holder is dropped or a later epoch of it publishes, until its lease or the
        block's time to live has passed, or until `max_holders_per_block` others have published the block since.
        """

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> None:
        """The holder no longer has these blocks. Changes nothing of a later epoch."""

    async def drop(self, holder: Holder) -> None:
        """The holder is gone: its entries no longer count, and nothing of this or an older epoch is taken any more.

        The fence holds for `block_ttl_s` at most: a process frozen for longer may add entries again, until its lease passes.
        """

    async def lookup(self, model: str, blocks: Sequence[BlockHash]) -> Mapping[Holder, int]:
        """For each holder, how many of the leading `blocks` it has; those that lack the first are left out.

        Valid for no time at all: by the time it is used the holder may have evicted any of them. Empty when in doubt.
        """

    async def close(self) -> None:
        """Give back connections. No call follows."""


def leading_runs(holders_of: Iterable[Collection[Holder]]) -> dict[Holder, int]:
    """From the holders of each block in order, how long a leading run each of them has."""
    runs: dict[Holder, int] = {}
    unbroken: set[Holder] | None = None
    for length, holders in enumerate(holders_of, start=1):
        unbroken = set(holders) if unbroken is None else unbroken.intersection(holders)
        if not unbroken:
            break
        for holder in unbroken:
            runs[holder] = length
    return runs


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
    holders: list[tuple[_Slot, int]]
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
            others = [item for item in entry.holders if item[0] != slot] if entry else []
            holders = [(slot, holder.epoch), *others][: self._limits.max_holders_per_block]
            index.entries[block] = _Entry(holders, now_s + self._limits.block_ttl_s)
        return PublishResult.KNOWN if is_known else PublishResult.NEW

    async def withdraw(self, holder: Holder, blocks: Sequence[BlockHash]) -> None:
        index, slot = self._models[holder.model], _slot(holder)
        fence = index.fences.get(slot)
        if fence is not None and fence.epoch > holder.epoch:
            return
        for block in blocks:
            entry = index.entries.get(block)
            if entry is not None:
                entry.holders = [item for item in entry.holders if item[0] != slot]
                if not entry.holders:
                    del index.entries[block]

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
        entries = (index.entries.get(block) for block in blocks)
        return leading_runs(
            [living[item] for item in entry.holders if item in living] if entry else [] for entry in entries
        )

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
