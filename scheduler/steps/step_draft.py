"""A step while it is being decided: its chunks, and what is left of the budget and the pages. planner.py has the order.

Who gets how much is decided elsewhere: decode_promises.py, prompt_shares.py, admission.py, lease_planning.py.
"""

from dataclasses import dataclass, field

from kvcache.page_pool import PageId, PagePool
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import Admission, Chunk, StepLimits


@dataclass(slots=True, kw_only=True)
class StepDraft:
    """A step being decided. Counts tokens and pages as if its decisions had been carried out."""

    pool: PagePool
    limits: StepLimits
    budget: int
    """Tokens."""
    effort: int
    """Tokens times what each of a prompt attends to: what prompts may take of the step's time, as a step without context would."""
    num_available: int
    """Pages."""
    running: list[Sequence]
    """In their order, without those that were preempted or have outgrown the pool."""
    chunks: dict[int, Chunk] = field(default_factory=dict)
    preempted: list[Sequence] = field(default_factory=list)
    outgrown: list[Sequence] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    num_decoded: int = 0
    """Tokens that sequences which decode bring at most."""
    _dropped: dict[PageId, int] = field(default_factory=dict)
    """References that preemptions of this step have given up."""

    @property
    def num_places(self) -> int:
        """How many more sequences may run."""
        return self.limits.max_step_sequences - len(self.running) - len(self.admissions)

    def cost(self, start: int) -> int:
        """Return the effort of a token of a prompt behind so many others; a few hundred of those make no difference."""
        return self.limits.equal_context + start - start % 512

    def affordable(self, start: int) -> int:
        """Return how many such tokens the step has time for."""
        return max(0, self.effort) // self.cost(start)

    def continue_sequence(self, sequence: Sequence, num_tokens: int, max_new_tokens: int = 1) -> None:
        """Schedule a running sequence's next tokens. Where pages are missing, others are preempted, or this one is.

        `max_new_tokens` is promised where its last token is among them: the end of a prompt brings one.
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
        """Preempt from the end of the order until `num_pages` are available; False when the sequence itself had to give way."""
        while num_pages > self.num_available:
            victim = self.running[-1]
            if victim is not sequence:
                self._preempt(victim)
            elif len(self.running) > 1:
                self._preempt(victim)
                return False
            else:
                # Alone with all pages. Tokens on their way come first; the next plan ends it.
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
