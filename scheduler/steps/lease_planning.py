"""Leases: where the next steps would be the same step again, one plan stands for all of them."""

from collections.abc import Collection

from scheduler.steps.step_decision import Chunk
from scheduler.steps.step_draft import StepDraft


def lease_further_steps(draft: StepDraft) -> None:
    """Turn the chunks into those of a lease, of as many steps as there are pages for."""
    if not _may_lease(draft):
        return
    num_steps = _longest(draft.chunks.values(), draft.limits.max_lease_steps)
    while num_steps > 1:
        chunks = [chunk.leased(num_steps) for chunk in draft.chunks.values()]
        num_pages_ahead = sum(chunk.num_new_pages for chunk in chunks)
        num_pages_ahead -= sum(chunk.num_new_pages for chunk in draft.chunks.values())
        if num_pages_ahead <= draft.num_available - draft.limits.watermark_pages:
            draft.chunks = {chunk.sequence.sequence_id: chunk for chunk in chunks}
            return
        num_steps //= 2


def _may_lease(draft: StepDraft) -> bool:
    """Whether the next steps would be this one again: no sequence joins or leaves, and all decode."""
    if draft.limits.max_lease_steps < 2 or draft.preempted or draft.outgrown:
        return False
    # A sequence that waits for results which may not bring its last token goes on with the next step.
    num_going_on = sum(sequence.num_pending > 0 or sequence.computation.num_uncertain > 0 for sequence in draft.running)
    return num_going_on == len(draft.chunks) and all(
        chunk.num_tokens == 1 and chunk.max_new_tokens for chunk in draft.chunks.values()
    )


def _longest(chunks: Collection[Chunk], num_steps: int) -> int:
    """Return how many steps all can go on together: a sequence whose steps surely do not lead to its end must not be left out."""
    for chunk in chunks:
        if (chunk.sequence.max_length - chunk.sequence.length) % chunk.max_new_tokens:
            num_steps = min(num_steps, chunk.max_num_steps)
    return num_steps
