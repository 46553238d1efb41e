"""plan_step: what one worker computes next. A pure function of its arguments: it changes no sequence and no page.

Each step has a budget of tokens. Sequences that decode come first, so that a prompt never delays a token that somebody is watching.
Prompts share the rest: those under way are sure of half of it while others wait, shorter ones may pass longer ones, and what nobody
takes goes to the oldest. A step that brings a short prompt's first token holds little of the long ones, so that it is soon over.
docs/overload.md says why. When pages run out, the latest original arrival of the lowest priority is preempted, so the oldest
sequence always gets on.

When nobody waits and all that is left to do is to decode, the next steps are foreseeable: they are planned at once, as a lease.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from kvcache.page_pool import PagePool
from scheduler.steps.admission import AdmissionRound
from scheduler.steps.decode_promises import continue_decoding
from scheduler.steps.lease_planning import lease_further_steps
from scheduler.steps.prompt_shares import PromptShares
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_decision import StepDecision, StepLimits
from scheduler.steps.step_draft import StepDraft


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
    draft = StepDraft(
        pool=pool,
        limits=limits,
        budget=limits.max_step_tokens,
        effort=limits.max_step_tokens * limits.equal_context,
        num_available=pool.num_available,
        running=sorted(running, key=lambda sequence: sequence.order),
    )
    prompts = PromptShares(draft)
    admission = AdmissionRound(draft, prompts)
    decoding, under_way = _decoding_and_prompts(draft.running)
    continue_decoding(draft, decoding)
    prompts.continue_prompts(under_way, is_shared=somebody_waits or bool(waiting))
    if not draft.preempted:
        admission.admit(waiting)
    prompts.share_the_rest()
    if not draft.preempted:
        admission.admit_held_back()
    if not somebody_waits:
        lease_further_steps(draft)
    return StepDecision(
        preempted=tuple(draft.preempted),
        outgrown=tuple(draft.outgrown),
        admissions=tuple(draft.admissions),
        chunks=tuple(draft.chunks.values()),
        short_of_pages=admission.short_of_pages,
    )


def _decoding_and_prompts(running: Iterable[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
    """Return the sequences that have one token to compute, and those that have more."""
    decoding: list[Sequence] = []
    prompts: list[Sequence] = []
    for sequence in running:
        num_pending = sequence.num_pending
        if num_pending == 1:
            decoding.append(sequence)
        elif num_pending > 1:
            prompts.append(sequence)
    return decoding, prompts
