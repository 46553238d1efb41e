"""The admission of waiting sequences to a step. A sequence needs a place, the pages for its whole length, and no reason to wait for
a prompt in progress."""

from collections.abc import Iterable, Set

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from scheduler.steps.prompt_shares import PASSING_RATIO, PromptShares
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import Admission
from scheduler.steps.step_draft import StepDraft

# Number of sequences that a step may pass over in its search, so that it does not search a queue of thousands.
MAX_HELD_BACK = 32


class AdmissionRound:
    """The admissions of one step."""

    def __init__(self, draft: StepDraft, prompts: PromptShares) -> None:
        self.short_of_pages: Sequence | None = None
        """The first sequence that was not admitted because too few pages are free."""
        self._draft = draft
        self._prompts = prompts
        self._claimed: set[PageId] = set()
        """Cached pages that admissions of this step share."""
        self._groups: set[str] = set()
        """Calls that have a sequence on this worker."""
        self._held_back: list[Sequence] = []
        """Sequences that are too long to pass the prompts in progress."""

    def admit(self, waiting: Iterable[Sequence]) -> None:
        """Admit the sequences that may begin beside the prompts in progress. Take from `waiting` only while there is room."""
        candidates, draft = iter(waiting), self._draft
        filling: set[BlockHash] | None = None
        num_passed_over = 0
        while draft.budget > self._prompts.num_kept and draft.num_places > 0 and num_passed_over < MAX_HELD_BACK:
            sequence = next(candidates, None)
            if sequence is None:
                return
            if filling is None:
                filling = self._prompts.blocks_being_filled()
                self._groups = {each.group for each in draft.running if each.group}
            if sequence.num_pages > draft.pool.num_pages:
                draft.outgrown.append(sequence)
            elif self._admit_unless_expected(sequence, filling):
                filling.update(self._prompts.grown(sequence).filled_blocks)
            elif self.short_of_pages is not None and self.short_of_pages.is_passed_enough:
                return
            else:
                num_passed_over += 1

    def admit_held_back(self) -> None:
        """Admit long prompts with the rest of the budget, which the prompts in progress cannot use in this step."""
        self._prompts.num_kept = 0
        for sequence in self._held_back:
            if self._draft.num_places <= 0 or not self._prompts.has_room_behind(sequence.length):
                return
            if self._admit_unless_expected(sequence, self._prompts.blocks_being_filled(), may_pass=True):
                self._prompts.grow(sequence, self._draft.budget)

    def _admit_unless_expected(self, sequence: Sequence, filling: Set[BlockHash], *, may_pass: bool = False) -> bool:
        """Admit a sequence, unless this step already computes the block that it needs next: one step later it will be cached."""
        if sequence.waits_for_scores:
            return False
        blocks = sequence.shareable_blocks
        cached_pages = self._draft.pool.match_blocks(blocks)
        if len(cached_pages) < len(blocks) and blocks[len(cached_pages)] in filling:
            return False
        return self._admit_sequence(sequence, cached_pages, may_pass=may_pass)

    def _admit_sequence(self, sequence: Sequence, cached_pages: list[PageId], *, may_pass: bool) -> bool:
        """Admit a sequence if a place is free, its pages are free above the watermark, and it need not pass a shorter prompt."""
        start = len(cached_pages) * sequence.page_size
        num_tokens = sequence.length - start
        is_first = sequence.group not in self._groups
        is_short = is_first and num_tokens <= self._draft.limits.prefill.long_token_threshold
        if not self._has_place(is_first=is_first, is_short=is_short):
            return False
        if not (may_pass or is_short or (is_first and self._prompts.may_pass(num_tokens))):
            self._held_back.append(sequence)
            return False
        if not self._claim_pages(sequence, cached_pages):
            return False
        self._draft.admissions.append(Admission(sequence=sequence, cached_pages=tuple(cached_pages)))
        if sequence.group:
            self._groups.add(sequence.group)
        self._prompts.begin_prompt(sequence, start, is_first=is_first)
        return True

    def _has_place(self, *, is_first: bool, is_short: bool) -> bool:
        """Return True if a place is free. The last places are for calls that have none yet, the very last for a short prompt."""
        num_places, reserved = self._draft.num_places, self._draft.limits.reserved_places
        return num_places > reserved or (is_first and (is_short or num_places > min(reserved, 1)))

    def _claim_pages(self, sequence: Sequence, cached_pages: list[PageId]) -> bool:
        draft = self._draft
        newly_claimed = {page for page in cached_pages if draft.pool.num_references(page) == 0} - self._claimed
        num_missing = sequence.num_pages - len(cached_pages)
        if self.short_of_pages is not None and PASSING_RATIO * num_missing > self.short_of_pages.num_pages:
            return False
        reserve = draft.limits.watermark_pages if draft.running or draft.admissions else 0
        if draft.num_available - len(newly_claimed) - num_missing < reserve:
            self.short_of_pages = self.short_of_pages or sequence
            return False
        self._claimed |= newly_claimed
        draft.num_available -= len(newly_claimed)
        return True
