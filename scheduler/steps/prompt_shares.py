"""The shares of prompts in a step's budget. Prompts in progress are guaranteed a part, and short prompts are finished first."""

from collections.abc import Sequence as Seq

from kvcache.block_hash import BlockHash
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import Chunk
from scheduler.steps.step_draft import StepDraft

# Minimum number of prompt tokens that a step computes for prompts in progress. Tokens after a long context count more.
MIN_CHUNK_TOKENS = 16
# A prompt may pass prompts in progress that have this many times as much left to compute. It may pass a prompt that is short of
# pages if it needs this many times fewer pages.
PASSING_RATIO = 4


class PromptShares:
    """The prompts that have a chunk in a step, and the shares by which their chunks may grow."""

    def __init__(self, draft: StepDraft) -> None:
        self.num_kept = 0
        """Tokens of the budget that are reserved for prompts in progress."""
        self._draft = draft
        self._threshold = draft.limits.prefill.long_token_threshold
        self._partial: list[Sequence] = []
        """Prompts whose chunk may still grow, in the order in which they share the rest of the budget."""
        self._short: list[tuple[int, Sequence]] = []
        """Short prompts that this step can finish, with their numbers of tokens."""

    # ---- first, a small chunk for each

    def continue_prompts(self, prompts: Seq[Sequence], *, is_shared: bool) -> None:
        """Schedule the running prompts. If others may want a part of the budget, they get only a first share."""
        draft = self._draft
        is_shared |= len(prompts) > 1
        num_for_others = draft.budget - draft.budget // 2
        for number, sequence in enumerate(prompts):
            if draft.budget and sequence not in draft.preempted:
                start = sequence.computation.num_computed
                wanted = min(sequence.num_pending, sequence.max_chunk_tokens, draft.budget)
                share = self._first_share(wanted, number, draft.budget - num_for_others, start)
                draft.continue_sequence(
                    sequence, share if is_shared else max(share, min(wanted, draft.affordable(start)))
                )
        if not is_shared:
            return
        for sequence in prompts:
            if sequence.sequence_id in draft.chunks:
                self._add(sequence, sequence.length - (sequence.history.num_cached_tokens or 0))
        self.num_kept = min(sum(map(self._num_left_of, self._partial)), draft.budget // 2)

    def begin_prompt(self, sequence: Sequence, start: int, *, is_first: bool) -> None:
        """Schedule the first chunk of a sequence that is admitted, of which `start` tokens are cached."""
        draft = self._draft
        num_tokens = sequence.length - start
        is_short = is_first and num_tokens <= self._threshold
        num_left = draft.budget - self.num_kept
        wanted = min(num_tokens, sequence.max_chunk_tokens, num_left)
        if not is_short or num_tokens > MIN_CHUNK_TOKENS:
            wanted = self._first_share(wanted, len(self._partial), draft.budget // 2, start)
        num_pages = -(-(start + wanted) // sequence.page_size)
        draft.schedule(sequence, start, wanted, num_pages - start // sequence.page_size)
        if self._add(sequence, num_tokens if is_first else sequence.length):
            num_left -= wanted
            self.num_kept += min(self._num_left_of(sequence), num_left if is_short else num_left // 2)

    def _first_share(self, num_tokens: int, number: int, room: int, start: int) -> int:
        """Return the number of tokens of a prompt's first share. All first shares together have less than MIN_CHUNK_TOKENS and fit
        into `room`, or have one token each."""
        share = (MIN_CHUNK_TOKENS >> (number + 1)) * self._draft.limits.equal_context // self._draft.cost(start)
        return min(num_tokens, max(1, share), max(1, room))

    def _add(self, sequence: Sequence, num_tokens: int) -> bool:
        """Add a prompt that has a chunk and `num_tokens` tokens that were not cached. Return True if its chunk may grow."""
        num_left = self._num_left_of(sequence)
        if num_left:
            self._partial.append(sequence)
        if num_tokens <= self._threshold and num_left <= self._draft.budget:
            self._short.append((num_tokens, sequence))
        return num_left > 0

    # ---- further prompts

    def may_pass(self, num_tokens: int) -> bool:
        """Return True if a prompt may pass all prompts in progress, because each has much more left to compute."""
        if not self._partial:
            return True
        limits = self._draft.limits.prefill
        remaining = [each.length - self._draft.chunks[each.sequence_id].max_start for each in self._partial]
        num_long = sum(num > self._threshold for num in remaining)
        is_room = num_long < limits.max_long_partial and len(remaining) < limits.max_num_partial
        return is_room and PASSING_RATIO * num_tokens <= min(remaining)

    def has_room_behind(self, length: int) -> bool:
        """Return True if the step can begin one more prompt of this length, beside those that continue in the next step."""
        draft = self._draft
        self._partial = [each for each in self._partial if not draft.chunks[each.sequence_id].max_new_tokens]
        is_room = len(self._partial) < draft.limits.prefill.max_num_partial
        return is_room and draft.budget > 0 and draft.effort >= draft.cost(length)

    # ---- then, the rest of the budget

    def share_the_rest(self) -> None:
        """Give each prompt half of what the ones before it left, and then, in the same order, all that is still left."""
        draft = self._draft
        self._partial = [each for each in self._partial if each.sequence_id in draft.chunks]
        if self._short:
            self._finish_short()
        for divisor in (2, 1):
            for sequence in self._partial:
                self.grow(sequence, draft.budget if sequence is self._partial[-1] else -(-draft.budget // divisor))

    def _finish_short(self) -> None:
        """Finish the shortest prompts, and limit the other prompts to as much effort as those and the decodes have taken."""
        draft = self._draft
        longest = max(MIN_CHUNK_TOKENS, PASSING_RATIO * min(num_tokens for num_tokens, _ in self._short))
        shortest = [sequence for num_tokens, sequence in self._short if num_tokens <= longest]
        for sequence in shortest:
            self.grow(sequence, draft.budget)
        self._partial = [each for each in self._partial if each not in shortest]
        num_tokens = sum(draft.chunks[each.sequence_id].num_tokens for each in shortest)
        begun = (draft.chunks[each.sequence_id] for each in self._partial)
        allowed = max(MIN_CHUNK_TOKENS, num_tokens + 2 * draft.num_decoded) * draft.limits.equal_context
        draft.effort = min(
            draft.effort, allowed - sum(chunk.num_tokens * draft.cost(chunk.max_start) for chunk in begun)
        )

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Lengthen the sequence's chunk by at most `num_tokens` tokens, as far as there are pages and effort."""
        draft = self._draft
        chunk, size = draft.chunks[sequence.sequence_id], sequence.page_size
        end = chunk.max_start + chunk.num_tokens
        num_pages = -(-end // size)
        num_tokens = min(num_tokens, self._num_left_of(sequence), (num_pages + draft.num_available) * size - end)
        num_tokens = min(num_tokens, draft.affordable(chunk.max_start))
        if num_tokens > 0:
            draft.take_back(chunk)
            num_more_pages = -(-(end + num_tokens) // size) - num_pages
            draft.schedule(
                sequence, chunk.max_start, chunk.num_tokens + num_tokens, chunk.num_new_pages + num_more_pages
            )

    def _num_left_of(self, sequence: Sequence) -> int:
        """Return the number of tokens by which the sequence's chunk could grow."""
        chunk = self._draft.chunks[sequence.sequence_id]
        return min(sequence.length - chunk.max_start, sequence.max_chunk_tokens) - chunk.num_tokens

    # ---- blocks of the step

    def blocks_being_filled(self) -> set[BlockHash]:
        """Return the blocks that this step fills if its chunks grow as far as they may."""
        filling = {block for chunk in self._draft.chunks.values() for block in chunk.filled_blocks}
        return filling.union(*(self.grown(each).filled_blocks for each in self._partial))

    def grown(self, sequence: Sequence) -> Chunk:
        """Return the sequence's chunk at its greatest possible length."""
        chunk = self._draft.chunks[sequence.sequence_id]
        return chunk._replace(num_tokens=chunk.num_tokens + min(self._draft.budget, self._num_left_of(sequence)))
