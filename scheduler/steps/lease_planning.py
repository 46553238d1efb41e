"""The planning of leases. A lease is one plan for several steps, made if the next steps would repeat this one."""

from collections.abc import Collection, Iterable

from scheduler.steps.step_decision import Chunk
from scheduler.steps.step_draft import StepDraft

# Maximum number of tokens that a lease promises to a sequence, unless it has more steps: pages for them are granted ahead, and most
# of them do not come.
MAX_TOKENS_AHEAD = 64


def lease_further_steps(draft: StepDraft) -> None:
    """Turn the step into a lease with as many steps as there are pages for, if it may be one."""
    if not _may_lease(draft):
        return
    num_steps = draft.limits.max_lease_steps
    while num_steps > 1:
        chunks = _promise_less(draft.chunks.values(), max(1, MAX_TOKENS_AHEAD // num_steps))
        num_steps = _longest(chunks, num_steps)
        leased = [chunk.leased(num_steps) for chunk in chunks]
        num_pages_ahead = sum(chunk.num_new_pages for chunk in leased)
        num_pages_ahead -= sum(chunk.num_new_pages for chunk in draft.chunks.values())
        if num_steps > 1 and num_pages_ahead <= draft.num_available - draft.limits.watermark_pages:
            draft.chunks = {chunk.sequence.sequence_id: chunk for chunk in leased}
            return
        num_steps //= 2


def _may_lease(draft: StepDraft) -> bool:
    """Return True if the next steps would repeat this one: no sequence joins or leaves, and all decode."""
    if draft.limits.max_lease_steps < 2 or draft.preempted or draft.outgrown:
        return False
    # A sequence whose results in flight may not bring its last token needs the next step too.
    num_going_on = sum(sequence.num_pending > 0 or sequence.computation.num_uncertain > 0 for sequence in draft.running)
    return num_going_on == len(draft.chunks) and all(
        chunk.num_tokens == 1 and chunk.max_new_tokens for chunk in draft.chunks.values()
    )


def _promise_less(chunks: Iterable[Chunk], most: int) -> list[Chunk]:
    """Return the chunks with at most `most` new tokens for each step."""
    return [chunk if chunk.max_new_tokens <= most else chunk._replace(max_new_tokens=most) for chunk in chunks]


def _longest(chunks: Collection[Chunk], num_steps: int) -> int:
    """Return the number of steps for all chunks. A sequence may leave the lease early only if its steps may reach its end."""
    for chunk in chunks:
        if (chunk.sequence.max_length - chunk.sequence.length) % chunk.max_new_tokens:
            num_steps = min(num_steps, chunk.max_num_steps)
    return num_steps
