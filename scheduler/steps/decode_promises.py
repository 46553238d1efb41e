"""The planning of decodes: each sequence gets one token per step. A constrained one may get several, if the worker can return them.

Only a constraint can force tokens, which a worker computes together with the token before them. All sequences of a step wait for
the further tokens, so they are planned only in small steps, where they cost little.
"""

from collections.abc import Sequence as Seq

from scheduler.steps.sequence import Sequence
from scheduler.steps.step_draft import StepDraft

# With more decodes a further token costs nearly as much as a step of its own: bench/results/masks.md.
MOST_DECODES = 8
# Part of the remaining budget that further tokens may take while prompts compete for it. Most of them do not come.
_SHARE_BESIDE_PROMPTS = 8


def continue_decoding(draft: StepDraft, decoding: Seq[Sequence], *, is_shared: bool) -> None:
    """Schedule the decoding sequences in order. If the budget has fewer tokens than there are sequences, the last ones wait.

    `is_shared` is true if prompts compete for the budget.
    """
    promises = _promises(draft, decoding, is_shared=is_shared)
    for sequence in decoding:
        if not draft.budget:
            return
        if sequence not in draft.preempted:
            draft.num_decoded += 1
            most = promises.tokens_for(sequence) if promises is not None and sequence.is_constrained else 1
            draft.continue_sequence(sequence, 1, most)


def _promises(draft: StepDraft, decoding: Seq[Sequence], *, is_shared: bool) -> "_Promises | None":
    """Return the promises for the constrained sequences, or None if each sequence gets one token."""
    if draft.limits.max_new_tokens == 1 or len(decoding) > MOST_DECODES:
        return None
    num_constrained = sum(sequence.is_constrained for sequence in decoding)
    return _Promises(draft, decoding, num_constrained, is_shared=is_shared) if num_constrained else None


class _Promises:
    """The maximum numbers of new tokens. Beyond one token each, they take only a part of the budget that prompts could use, and no
    page that another decoding sequence needs for its one token."""

    def __init__(self, draft: StepDraft, decoding: Seq[Sequence], num_constrained: int, *, is_shared: bool) -> None:
        num_left = max(0, draft.budget - len(decoding))
        if is_shared:
            num_left //= _SHARE_BESIDE_PROMPTS
        self._max_new_tokens = min(draft.limits.max_new_tokens, 1 + num_left // num_constrained)
        num_needed = sum(each.num_new_pages(each.computation.num_computed + 1) for each in decoding)
        self._num_pages = draft.num_available - num_needed - draft.limits.watermark_pages

    def tokens_for(self, sequence: Sequence) -> int:
        """Return the maximum for a sequence: no more than there are pages for, and less and less towards its end.

        Where the steps in flight may return its last token, a sequence has to wait for their results.
        """
        num_wanted = min(self._max_new_tokens, max(1, (sequence.max_length - sequence.length) // 4))
        start, size = sequence.computation.num_computed, sequence.page_size
        num_pages = max(len(sequence.computation.block_table), start // size + 1)
        num_promised = min(num_wanted, (num_pages + max(0, self._num_pages)) * size - start)
        self._num_pages -= max(0, -(-(start + num_promised) // size) - num_pages)
        return num_promised
