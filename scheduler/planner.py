"""plan_step: what one worker computes next. A pure function of its arguments: it changes no sequence and no page.

Each step has a budget of tokens. Running sequences come first, those that decode before those that still prefill, so that a long
prompt never delays a token that somebody is watching; what is left of the budget goes to waiting sequences in order. When pages
run out, the latest original arrival of the lowest priority is preempted, so the oldest sequence always gets on.

When nobody waits and all that is left to do is to decode, the next steps are foreseeable: they are planned at once, as a lease.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import NamedTuple

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId, PagePool
from scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLimits:
    max_step_tokens: int
    max_step_sequences: int
    watermark_pages: int
    """Admission leaves this many pages to the sequences that run already, unless none runs. Leases always leave them."""
    max_lease_steps: int = 1
    """Most steps that one plan may stand for."""


class Chunk(NamedTuple):
    """Compute tokens [start, start + num_tokens) of a sequence, after appending new pages to its block table.

    A tuple, like all that is made once per sequence and step: a frozen dataclass takes four times as long to make.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    num_new_pages: int
    sample: bool
    num_steps: int = 1
    """In a lease: how many of its steps, each one token further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A waiting sequence starts to run, its first blocks taken from the cache."""

    sequence: Sequence
    cached_pages: tuple[PageId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecision:
    """Carried out in the order of the fields: pages freed by the first two may be granted to the last."""

    preempted: tuple[Sequence, ...]
    outgrown: tuple[Sequence, ...]
    """Alone, with all pages, and still too long: they end here."""
    admissions: tuple[Admission, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_steps(self) -> int:
        """More than 1 is a lease: the worker goes on by itself."""
        return max((chunk.num_steps for chunk in self.chunks), default=1)


def plan_step(
    running: Seq[Sequence],
    waiting: Iterable[Sequence],
    pool: PagePool,
    limits: StepLimits,
    *,
    somebody_waits: bool = False,
) -> StepDecision:
    """Decide one step. `waiting` is in the order of admission, and asked for the next one only while there is room for it;
    `somebody_waits` if others do who are not among them."""
    draft = _Draft(pool=pool, limits=limits, budget=limits.max_step_tokens, num_available=pool.num_available)
    draft.running = sorted(running, key=lambda sequence: sequence.order)
    draft.continue_running()
    if not draft.preempted:
        draft.admit(waiting)
    if draft.may_lease and not somebody_waits:
        draft.lease()
    return StepDecision(
        preempted=tuple(draft.preempted),
        outgrown=tuple(draft.outgrown),
        admissions=tuple(draft.admissions),
        chunks=tuple(draft.chunks.values()),
    )


@dataclass(slots=True, kw_only=True)
class _Draft:
    """A step being decided. Counts pages as if its decisions had been carried out."""

    pool: PagePool
    limits: StepLimits
    budget: int
    num_available: int
    running: list[Sequence] = field(default_factory=list)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    preempted: list[Sequence] = field(default_factory=list)
    outgrown: list[Sequence] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    claimed: set[PageId] = field(default_factory=set)
    """Cached pages that admissions of this step have taken."""
    dropped: dict[PageId, int] = field(default_factory=dict)
    """References that preemptions of this step have given up."""

    def continue_running(self) -> None:
        decoding, prefilling = [], []
        for sequence in self.running:
            num_pending = sequence.num_pending
            if num_pending == 1:
                decoding.append((sequence, 1))
            elif num_pending > 1:
                prefilling.append((sequence, min(num_pending, sequence.max_chunk_tokens)))
        for sequence, num_tokens in decoding + prefilling:
            if self.budget == 0:
                return
            if sequence not in self.preempted:
                self.continue_sequence(sequence, min(num_tokens, self.budget))

    def continue_sequence(self, sequence: Sequence, num_tokens: int) -> None:
        num_new_pages = sequence.num_new_pages(sequence.num_computed + num_tokens)
        if num_new_pages <= self.num_available or self.make_room(sequence, num_new_pages):
            self.schedule(sequence, sequence.num_computed, num_tokens, num_new_pages)

    def make_room(self, sequence: Sequence, num_pages: int) -> bool:
        """Preempt from the end of the order until `num_pages` are available; False when the sequence itself had to give way."""
        while num_pages > self.num_available:
            victim = self.running[-1]
            if victim is not sequence:
                self.preempt(victim)
            elif len(self.running) > 1:
                self.preempt(victim)
                return False
            else:
                # Alone with all pages. Tokens on their way come first; the next plan ends it.
                if sequence.num_sampling == 0:
                    self.running.remove(sequence)
                    self.outgrown.append(sequence)
                return False
        return True

    def preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self.preempted.append(victim)
        chunk = self.chunks.pop(victim.sequence_id, None)
        if chunk is not None:
            self.budget += chunk.num_tokens
            self.num_available += chunk.num_new_pages
        for page in victim.block_table:
            self.dropped[page] = self.dropped.get(page, 0) + 1
            if self.dropped[page] == self.pool.num_references(page):
                self.num_available += 1

    def schedule(self, sequence: Sequence, start: int, num_tokens: int, num_new_pages: int) -> None:
        self.budget -= num_tokens
        self.num_available -= num_new_pages
        sample = start + num_tokens == sequence.length
        self.chunks[sequence.sequence_id] = Chunk(sequence, start, num_tokens, num_new_pages, sample)

    def admit(self, waiting: Iterable[Sequence]) -> None:
        filling = self.blocks_being_filled()
        num_running = len(self.running)
        candidates = iter(waiting)
        while self.budget and num_running < self.limits.max_step_sequences:
            sequence = next(candidates, None)
            if sequence is None:
                return
            if sequence.num_pages > self.pool.num_pages:
                self.outgrown.append(sequence)
                continue
            blocks = sequence.shareable_blocks
            cached_pages = self.pool.match(blocks)
            if len(cached_pages) < len(blocks) and blocks[len(cached_pages)] in filling:
                # A sibling in this very step computes what it needs next: one step later it is a hit.
                continue
            if not self.admit_sequence(sequence, cached_pages, is_alone=num_running == 0):
                return
            num_running += 1
            filling.update(_blocks_filled_by(self.chunks[sequence.sequence_id]))

    def admit_sequence(self, sequence: Sequence, cached_pages: list[PageId], *, is_alone: bool) -> bool:
        """Admit it if its whole length fits now and leaves the watermark; False leaves it and all behind it waiting."""
        newly_claimed = {page for page in cached_pages if self.pool.num_references(page) == 0} - self.claimed
        num_missing = sequence.num_pages - len(cached_pages)
        reserve = 0 if is_alone else self.limits.watermark_pages
        if self.num_available - len(newly_claimed) - num_missing < reserve:
            return False
        self.claimed |= newly_claimed
        self.num_available -= len(newly_claimed)
        self.admissions.append(Admission(sequence=sequence, cached_pages=tuple(cached_pages)))
        start = len(cached_pages) * sequence.page_size
        num_tokens = min(self.budget, sequence.length - start, sequence.max_chunk_tokens)
        num_pages = -(-(start + num_tokens) // sequence.page_size)
        self.schedule(sequence, start, num_tokens, num_pages - len(cached_pages))
        return True

    @property
    def may_lease(self) -> bool:
        """Whether the next steps would be this one again: nobody joins, nobody leaves, and all decode."""
        if self.limits.max_lease_steps < 2 or self.preempted or self.outgrown:
            return False
        num_going_on = sum(sequence.num_pending > 0 for sequence in self.running)
        return num_going_on == len(self.chunks) and all(
            chunk.num_tokens == 1 and chunk.sample for chunk in self.chunks.values()
        )

    def lease(self) -> None:
        """As many steps as there are pages for."""
        num_steps = self.limits.max_lease_steps
        while num_steps > 1:
            chunks = [_leased(chunk, num_steps) for chunk in self.chunks.values()]
            num_pages_ahead = sum(chunk.num_new_pages for chunk in chunks)
            num_pages_ahead -= sum(chunk.num_new_pages for chunk in self.chunks.values())
            if num_pages_ahead <= self.num_available - self.limits.watermark_pages:
                self.chunks = {chunk.sequence.sequence_id: chunk for chunk in chunks}
                return
            num_steps //= 2

    def blocks_being_filled(self) -> set[BlockHash]:
        return {block for chunk in self.chunks.values() for block in _blocks_filled_by(chunk)}


def _blocks_filled_by(chunk: Chunk) -> Seq[BlockHash]:
    size = chunk.sequence.page_size
    return chunk.sequence.block_hashes[1 + chunk.start // size : 1 + (chunk.start + chunk.num_tokens) // size]


def _leased(chunk: Chunk, num_steps: int) -> Chunk:
    """Not past the sequence's end: a token that is its last is sampled and not computed."""
    sequence = chunk.sequence
    num_steps = min(num_steps, sequence.max_length - sequence.length)
    return chunk._replace(num_new_pages=sequence.num_new_pages(chunk.start + num_steps), num_steps=num_steps)
