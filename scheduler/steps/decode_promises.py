"""The planning of decodes: each sequence gets one token per step, or several if the worker can return several."""

from collections.abc import Sequence as Seq

from scheduler.steps.sequence import Sequence
from scheduler.steps.step_draft import StepDraft


def continue_decoding(draft: StepDraft, decoding: Seq[Sequence]) -> None:
    """Schedule the decoding sequences in order. If the budget has fewer tokens than there are sequences, the last ones wait."""
    promises = _Promises(draft, decoding) if decoding and draft.limits.max_new_tokens > 1 else None
    for sequence in decoding:
        if not draft.budget:
            return
        if sequence not in draft.preempted:
            max_new_tokens = promises.tokens_for(sequence) if promises is not None else 1
            draft.num_decoded += max_new_tokens
            draft.continue_sequence(sequence, 1, max_new_tokens)


class _Promises:
    """The maximum numbers of new tokens. Beyond one token each, they take at most half of the remaining budget, so that prompts
    progress, and no page that another decoding sequence needs for its one token."""

    def __init__(self, draft: StepDraft, decoding: Seq[Sequence]) -> None:
        num_left = max(0, draft.budget - len(decoding)) // 2
        self._max_new_tokens = min(draft.limits.max_new_tokens, 1 + num_left // len(decoding))
        num_needed = sum(each.num_new_pages(each.computation.num_computed + 1) for each in decoding)
        self._num_pages = draft.num_available - num_needed - draft.limits.watermark_pages

    def tokens_for(self, sequence: Sequence) -> int:
        """Return the maximum for a sequence: not past its end, and no more than there are pages for."""
        num_wanted = min(self._max_new_tokens, sequence.max_length - sequence.length)
        start, size = sequence.computation.num_computed, sequence.page_size
        num_pages = max(len(sequence.computation.block_table), start // size + 1)
        num_promised = min(num_wanted, (num_pages + max(0, self._num_pages)) * size - start)
        self._num_pages -= max(0, -(-(start + num_promised) // size) - num_pages)
        return num_promised
