"""The draft of a step: its chunks, and the rest of the budget and the pages.

planner.py decides the order. decode_promises.py, prompt_shares.py, admission.py and lease_planning.py decide the amounts.
"""

from dataclasses import dataclass, field

from kvcache.page_pool import PageId, PagePool
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import Admission, Chunk, StepLimits


@dataclass(slots=True, kw_only=True)
class StepDraft:
    """A step that is being decided. It counts tokens and pages as if its decisions were carried out."""

    pool: PagePool
    limits: StepLimits
    budget: int
    """Tokens that the step may still compute."""
    effort: int
    """Time that prompts may still take, in tokens weighted by their context: as much as the tokens of a step without context."""
    num_available: int
    """Pages that are still available."""
    running: list[Sequence]
    """Running sequences in order, without those that were preempted or have outgrown the pool."""
    chunks: dict[int, Chunk] = field(default_factory=dict)
    preempted: list[Sequence] = field(default_factory=list)
    outgrown: list[Sequence] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    num_decoded: int = 0
    """Number of sequences that decode."""
    _dropped: dict[PageId, int] = field(default_factory=dict)
    """Number of references to each page that preemptions of this step have released."""

    @property
    def num_places(self) -> int:
        """Number of further sequences that may run."""
        return self.limits.max_step_sequences - len(self.running) - len(self.admissions)

    def cost(self, start: int) -> int:
        """Return the effort of a prompt token after `start` others, with `start` rounded down to a multiple of 512."""
        return self.limits.equal_context + start - start % 512

    def affordable(self, start: int) -> int:
        """Return the number of tokens after the first `start` for which effort is left."""
        return max(0, self.effort) // self.cost(start)

    def continue_sequence(self, sequence: Sequence, num_tokens: int, max_new_tokens: int = 1) -> None:
        """Schedule a running sequence's next tokens. If pages are missing, preempt others or this sequence.

        `max_new_tokens` counts if the chunk reaches the sequence's last token.
        """
        num_new_pages = sequence.num_new_pages(sequence.computation.num_computed + num_tokens + max_new_tokens - 1)
        if num_new_pages <= self.num_available or self._make_room(sequence, num_new_pages):
            self.schedule(sequence, sequence.computation.num_computed, num_tokens, num_new_pages, max_new_tokens)

    def schedule(
        self, sequence: Sequence, max_start: int, num_tokens: int, num_new_pages: int, max_new_tokens: int = 1
    ) -> None:
        if max_start + num_tokens < sequence.length:
            max_new_tokens = 0
        self.chunks[sequence.sequence_id] = Chunk(sequence, max_start, num_tokens, num_new_pages, max_new_tokens)
        if max_new_tokens > 1:
            num_tokens += max_new_tokens - 1
        self.budget -= num_tokens
        self.effort -= num_tokens * self.cost(max_start)
        self.num_available -= num_new_pages

    def take_back(self, chunk: Chunk) -> None:
        """Undo `schedule`."""
        num_tokens = chunk.most_tokens
        self.budget += num_tokens
        self.effort += num_tokens * self.cost(chunk.max_start)
        self.num_available += chunk.num_new_pages

    def _make_room(self, sequence: Sequence, num_pages: int) -> bool:
        """Preempt from the end of the order until `num_pages` are available. Return False if the sequence itself had to go."""
        while num_pages > self.num_available:
            victim = self.running[-1]
            if victim is not sequence:
                self._preempt(victim)
            elif len(self.running) > 1:
                self._preempt(victim)
                return False
            else:
                # It is alone and has all pages. It ends once no results are in flight, so that none of its tokens is lost.
                if sequence.computation.num_sampling == 0:
                    self.running.remove(sequence)
                    self.outgrown.append(sequence)
                return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        self.running.remove(victim)
        self.preempted.append(victim)
        chunk = self.chunks.pop(victim.sequence_id, None)
        if chunk is not None:
            self.take_back(chunk)
        for page in victim.computation.block_table:
            self._dropped[page] = self._dropped.get(page, 0) + 1
            if self._dropped[page] == self.pool.num_references(page):
                self.num_available += 1
