"""A step while it is being decided: what is left of the budget and the pages, and who shares it. planner.py has the order."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, field

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId, PagePool
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import Admission, Chunk, StepLimits

# Tokens of prompts under way that each step computes, whoever waits: so many without context before them.
MIN_CHUNK_TOKENS = 16
# A prompt may pass those under way that have so many times as much left to compute, and those for which there are no pages if it
# needs so many times fewer.
PASSING_RATIO = 4
# So many waiting sequences are looked at in vain for one that may pass: thousands must not be gone through with each step.
MAX_HELD_BACK = 32


@dataclass(slots=True, kw_only=True)
class StepDraft:
    """A step being decided. Counts pages as if its decisions had been carried out."""

    pool: PagePool
    limits: StepLimits
    budget: int
    """Tokens."""
    effort: int
    """Tokens times what each of a prompt attends to: what prompts may take of the step's time, as a step without context would."""
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
    partial: list[Sequence] = field(default_factory=list)
    """Those whose chunk may still grow, in the order in which they share what is left of the budget."""
    num_kept: int = 0
    """Of the budget: for them, whoever else comes."""
    held_back: list[Sequence] = field(default_factory=list)
    """They would have to pass others to be admitted, and are too long for that."""
    short_of_pages: Sequence | None = None
    max_new_tokens: int = 1
    """Most that a sequence that decodes is promised in this step."""
    num_pages_ahead: int = 0
    """That they may take for more than one token each."""
    num_decoded: int = 0
    """Tokens that they bring at most."""
    groups: set[str] = field(default_factory=set)
    """The calls that have a sequence here."""
    short: list[tuple[int, Sequence]] = field(default_factory=list)
    """Short prompts whose last token this step can compute, with their numbers of tokens."""

    # ---- those that run

    def continue_running(self, *, is_shared: bool) -> None:
        """The sequences that decode, then the prompts under way; with others who may want a part, these only begin."""
        prompts = []
        self.promise_tokens()
        for sequence in self.running.copy():
            num_pending = sequence.num_pending
            if num_pending > 1:
                prompts.append(sequence)
            elif num_pending == 1 and self.budget and sequence not in self.preempted:
                max_new_tokens = 1 if self.max_new_tokens == 1 else self.tokens_to_promise(sequence)
                self.num_decoded += max_new_tokens
                self.continue_sequence(sequence, 1, max_new_tokens)
        is_shared |= len(prompts) > 1
        num_for_others = self.budget - self.budget // 2
        for number, sequence in enumerate(prompts):
            if self.budget and sequence not in self.preempted:
                start = sequence.num_computed
                wanted = min(sequence.num_pending, sequence.max_chunk_tokens, self.budget)
                share = self.first_share(wanted, number, self.budget - num_for_others, start)
                self.continue_sequence(
                    sequence, share if is_shared else max(share, min(wanted, self.affordable(start)))
                )
        if not is_shared:
            return
        for sequence in prompts:
            if sequence.sequence_id in self.chunks:
                self.note_prompt(sequence, sequence.length - (sequence.num_cached_tokens or 0))
        self.num_kept = min(sum(map(self.num_left_of, self.partial)), self.budget // 2)

    def promise_tokens(self) -> None:
        """Decide what the sequences that decode may bring beyond a token each: of the budget at most half of what that leaves, so
        that prompts get on, and no page that another one of them needs for its one token."""
        if self.limits.max_new_tokens == 1:
            return
        decoding = [each for each in self.running if each.num_pending == 1]
        if decoding:
            num_left = max(0, self.budget - len(decoding)) // 2
            self.max_new_tokens = min(self.limits.max_new_tokens, 1 + num_left // len(decoding))
            num_needed = sum(each.num_new_pages(each.num_computed + 1) for each in decoding)
            self.num_pages_ahead = self.num_available - num_needed - self.limits.watermark_pages

    def tokens_to_promise(self, sequence: Sequence) -> int:
        """Not past the sequence's end, and no more than there are pages for."""
        num_wanted = min(self.max_new_tokens, sequence.max_length - sequence.length)
        start, size = sequence.num_computed, sequence.page_size
        num_pages = max(len(sequence.block_table), start // size + 1)
        num_promised = min(num_wanted, (num_pages + max(0, self.num_pages_ahead)) * size - start)
        self.num_pages_ahead -= max(0, -(-(start + num_promised) // size) - num_pages)
        return num_promised

    def first_share(self, num_tokens: int, number: int, room: int, start: int) -> int:
        """Return the tokens with which a prompt begins: all of them together have less than MIN_CHUNK_TOKENS and fit into
        `room`, or have a token each."""
        share = (MIN_CHUNK_TOKENS >> (number + 1)) * self.limits.equal_context // self.cost(start)
        return min(num_tokens, max(1, share), max(1, room))

    def cost(self, start: int) -> int:
        """The effort of a token of a prompt behind so many others; a few hundred of those make no difference."""
        return self.limits.equal_context + start - start % 512

    def affordable(self, start: int) -> int:
        return max(0, self.effort) // self.cost(start)

    def continue_sequence(self, sequence: Sequence, num_tokens: int, max_new_tokens: int = 1) -> None:
        """`max_new_tokens` where this computes its last token: a prompt's end brings one."""
        num_new_pages = sequence.num_new_pages(sequence.num_computed + num_tokens + max_new_tokens - 1)
        if num_new_pages <= self.num_available or self.make_room(sequence, num_new_pages):
            self.schedule(sequence, sequence.num_computed, num_tokens, num_new_pages, max_new_tokens)

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
            self.take_back(chunk)
        for page in victim.block_table:
            self.dropped[page] = self.dropped.get(page, 0) + 1
            if self.dropped[page] == self.pool.num_references(page):
                self.num_available += 1

    def schedule(
        self, sequence: Sequence, start: int, num_tokens: int, num_new_pages: int, max_new_tokens: int = 1
    ) -> None:
        if start + num_tokens < sequence.length:
            max_new_tokens = 0
        self.chunks[sequence.sequence_id] = Chunk(sequence, start, num_tokens, num_new_pages, max_new_tokens)
        if max_new_tokens > 1:
            num_tokens += max_new_tokens - 1
        self.budget -= num_tokens
        self.effort -= num_tokens * self.cost(start)
        self.num_available -= num_new_pages

    def take_back(self, chunk: Chunk) -> None:
        """Undo `schedule`."""
        num_tokens = chunk.most_tokens
        self.budget += num_tokens
        self.effort += num_tokens * self.cost(chunk.start)
        self.num_available += chunk.num_new_pages

    # ---- those that wait

    def admit(self, waiting: Iterable[Sequence]) -> None:
        candidates = iter(waiting)
        filling: set[BlockHash] | None = None
        num_passed_over = 0
        while self.budget > self.num_kept and self.num_places > 0 and num_passed_over < MAX_HELD_BACK:
            sequence = next(candidates, None)
            if sequence is None:
                return
            if filling is None:
                filling = self.blocks_being_filled()
                self.groups = {each.group for each in self.running if each.group}
            if sequence.num_pages > self.pool.num_pages:
                self.outgrown.append(sequence)
            elif self.admit_unless_expected(sequence, filling):
                filling.update(self.grown(sequence).filled_blocks)
            elif self.short_of_pages is not None and self.short_of_pages.is_passed_enough:
                return
            else:
                num_passed_over += 1

    def admit_unless_expected(self, sequence: Sequence, filling: Set[BlockHash], *, may_pass: bool = False) -> bool:
        """Not where a sibling in this very step computes what it needs next: one step later it is a hit."""
        if sequence.waits_for_scores:
            return False
        blocks = sequence.shareable_blocks
        cached_pages = self.pool.match_blocks(blocks)
        if len(cached_pages) < len(blocks) and blocks[len(cached_pages)] in filling:
            return False
        return self.admit_sequence(sequence, cached_pages, may_pass=may_pass)

    @property
    def num_places(self) -> int:
        return self.limits.max_step_sequences - len(self.running) - len(self.admissions)

    def admit_sequence(self, sequence: Sequence, cached_pages: list[PageId], *, may_pass: bool = False) -> bool:
        """Admit it if there is a place, its whole length fits now and leaves the watermark, and it need not pass a shorter one."""
        start = len(cached_pages) * sequence.page_size
        num_tokens = sequence.length - start
        is_first = sequence.group not in self.groups
        is_short = is_first and num_tokens <= self.limits.prefill.long_token_threshold
        if not self.has_place(is_first=is_first, is_short=is_short):
            return False
        if not (may_pass or is_short or (is_first and self.may_pass(num_tokens))):
            self.held_back.append(sequence)
            return False
        if not self.claim_pages(sequence, cached_pages):
            return False
        self.admissions.append(Admission(sequence=sequence, cached_pages=tuple(cached_pages)))
        num_left = self.budget - self.num_kept
        wanted = min(num_tokens, sequence.max_chunk_tokens, num_left)
        if not is_short or num_tokens > MIN_CHUNK_TOKENS:
            wanted = self.first_share(wanted, len(self.partial), self.budget // 2, start)
        num_pages = -(-(start + wanted) // sequence.page_size)
        self.schedule(sequence, start, wanted, num_pages - len(cached_pages))
        if sequence.group:
            self.groups.add(sequence.group)
        if self.note_prompt(sequence, num_tokens if is_first else sequence.length):
            num_left -= wanted
            self.num_kept += min(self.num_left_of(sequence), num_left if is_short else num_left // 2)
        return True

    def has_place(self, *, is_first: bool, is_short: bool) -> bool:
        """The last places are for calls that have none yet, and the very last for a short prompt."""
        reserved = self.limits.reserved_places
        return self.num_places > reserved or (is_first and (is_short or self.num_places > min(reserved, 1)))

    def may_pass(self, num_tokens: int) -> bool:
        """Whether a long prompt need not wait for those under way: all of them have much more left to compute."""
        if not self.partial:
            return True
        remaining = [each.length - self.chunks[each.sequence_id].start for each in self.partial]
        num_long = sum(num > self.limits.prefill.long_token_threshold for num in remaining)
        is_room = (
            num_long < self.limits.prefill.max_long_partial and len(remaining) < self.limits.prefill.max_num_partial
        )
        return is_room and PASSING_RATIO * num_tokens <= min(remaining)

    def claim_pages(self, sequence: Sequence, cached_pages: list[PageId]) -> bool:
        newly_claimed = {page for page in cached_pages if self.pool.num_references(page) == 0} - self.claimed
        num_missing = sequence.num_pages - len(cached_pages)
        if self.short_of_pages is not None and PASSING_RATIO * num_missing > self.short_of_pages.num_pages:
            return False
        reserve = self.limits.watermark_pages if self.running or self.admissions else 0
        if self.num_available - len(newly_claimed) - num_missing < reserve:
            self.short_of_pages = self.short_of_pages or sequence
            return False
        self.claimed |= newly_claimed
        self.num_available -= len(newly_claimed)
        return True

    # ---- prompts share what is left

    def note_prompt(self, sequence: Sequence, num_tokens: int) -> bool:
        """A prompt of which so many tokens were not cached has a chunk now; True if that may grow."""
        num_left = self.num_left_of(sequence)
        if num_left:
            self.partial.append(sequence)
        if num_tokens <= self.limits.prefill.long_token_threshold and num_left <= self.budget:
            self.short.append((num_tokens, sequence))
        return num_left > 0

    def num_left_of(self, sequence: Sequence) -> int:
        """Tokens by which its chunk could grow."""
        chunk = self.chunks[sequence.sequence_id]
        return min(sequence.length - chunk.start, sequence.max_chunk_tokens) - chunk.num_tokens

    def share_the_rest(self) -> None:
        """Each prompt under way takes half of what those before it left, then as much as there is; then long ones are admitted."""
        self.partial = [each for each in self.partial if each.sequence_id in self.chunks]
        if self.short:
            self.finish_short()
        for divisor in (2, 1):
            for sequence in self.partial:
                self.grow(sequence, self.budget if sequence is self.partial[-1] else -(-self.budget // divisor))
        if not self.preempted:
            self.admit_held_back()

    def finish_short(self) -> None:
        """Compute the shortest prompts to their ends, and leave to the others as much effort as that and the decodes have taken."""
        longest = max(MIN_CHUNK_TOKENS, PASSING_RATIO * min(num_tokens for num_tokens, _ in self.short))
        shortest = [sequence for num_tokens, sequence in self.short if num_tokens <= longest]
        for sequence in shortest:
            self.grow(sequence, self.budget)
        self.partial = [each for each in self.partial if each not in shortest]
        num_tokens = sum(self.chunks[each.sequence_id].num_tokens for each in shortest)
        begun = (self.chunks[each.sequence_id] for each in self.partial)
        allowed = max(MIN_CHUNK_TOKENS, num_tokens + 2 * self.num_decoded) * self.limits.equal_context
        self.effort = min(self.effort, allowed - sum(chunk.num_tokens * self.cost(chunk.start) for chunk in begun))

    def grow(self, sequence: Sequence, num_tokens: int) -> int:
        """By so many tokens, or as far as there are pages; returns by how many."""
        chunk, size = self.chunks[sequence.sequence_id], sequence.page_size
        end = chunk.start + chunk.num_tokens
        num_pages = -(-end // size)
        num_tokens = min(num_tokens, self.num_left_of(sequence), (num_pages + self.num_available) * size - end)
        num_tokens = min(num_tokens, self.affordable(chunk.start))
        if num_tokens > 0:
            self.take_back(chunk)
            num_more_pages = -(-(end + num_tokens) // size) - num_pages
            self.schedule(sequence, chunk.start, chunk.num_tokens + num_tokens, chunk.num_new_pages + num_more_pages)
        return num_tokens

    def admit_held_back(self) -> None:
        """Those under way can take no more in this step: what is left begins the next ones."""
        self.num_kept = 0
        for sequence in self.held_back:
            self.partial = [each for each in self.partial if not self.chunks[each.sequence_id].max_new_tokens]
            is_full = self.budget <= 0 or self.num_places <= 0 or self.effort < self.cost(sequence.length)
            if is_full or len(self.partial) >= self.limits.prefill.max_num_partial:
                return
            if self.admit_unless_expected(sequence, self.blocks_being_filled(), may_pass=True):
                self.grow(sequence, self.budget)

    # ---- leases

    @property
    def may_lease(self) -> bool:
        """Whether the next steps would be this one again: nobody joins, nobody leaves, and all decode."""
        if self.limits.max_lease_steps < 2 or self.preempted or self.outgrown:
            return False
        # Who waits for results that may not bring its last token, goes on with the next step.
        num_going_on = sum(sequence.num_pending > 0 or sequence.num_uncertain > 0 for sequence in self.running)
        return num_going_on == len(self.chunks) and all(
            chunk.num_tokens == 1 and chunk.max_new_tokens for chunk in self.chunks.values()
        )

    def lease(self) -> None:
        """As many steps as there are pages for, and none without a sequence that surely has not ended."""
        num_steps = self.limits.max_lease_steps
        for chunk in self.chunks.values():
            if (chunk.sequence.max_length - chunk.sequence.length) % chunk.max_new_tokens:
                num_steps = min(num_steps, chunk.max_num_steps)
        while num_steps > 1:
            chunks = [chunk.leased(num_steps) for chunk in self.chunks.values()]
            num_pages_ahead = sum(chunk.num_new_pages for chunk in chunks)
            num_pages_ahead -= sum(chunk.num_new_pages for chunk in self.chunks.values())
            if num_pages_ahead <= self.num_available - self.limits.watermark_pages:
                self.chunks = {chunk.sequence.sequence_id: chunk for chunk in chunks}
                return
            num_steps //= 2

    def blocks_being_filled(self) -> set[BlockHash]:
        """In this step, as far as its chunks may grow."""
        filling = {block for chunk in self.chunks.values() for block in chunk.filled_blocks}
        return filling.union(*(self.grown(each).filled_blocks for each in self.partial))

    def grown(self, sequence: Sequence) -> Chunk:
        """Its chunk, as long as it may become."""
        chunk = self.chunks[sequence.sequence_id]
        return chunk._replace(num_tokens=chunk.num_tokens + min(self.budget, self.num_left_of(sequence)))
