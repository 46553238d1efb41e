"""The planning of one worker's next step, as a pure function that changes no sequence and no page.

Each step has a budget of tokens. Decodes come first, so that a prompt never delays the next token of a running stream. Prompts
share the rest: prompts in progress are guaranteed half of it while others wait, shorter prompts may pass longer ones, and the
remainder goes to the oldest. A step that computes the first token of a short prompt computes little of the long ones, so that it
ends soon. docs/overload.md gives the reasons. If pages run out, the sequence of the lowest priority that arrived last is preempted,
so that the oldest sequence always progresses.

If no sequence waits and all running ones decode, the next steps are foreseeable. They are planned together, as a lease.
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
    """Decide one step. `waiting` is in the order of admission and is read only while there is room. `somebody_waits` is true if
    the model has waiting sequences, including those that are not in `waiting`."""
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
    has_waiting = somebody_waits or bool(waiting)
    continue_decoding(draft, decoding, is_shared=has_waiting or bool(under_way))
    prompts.continue_prompts(under_way, is_shared=has_waiting)
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
    """Return the sequences with one token to compute, and the sequences with more."""
    decoding: list[Sequence] = []
    prompts: list[Sequence] = []
    for sequence in running:
        num_pending = sequence.num_pending
        if num_pending == 1:
            decoding.append(sequence)
        elif num_pending > 1:
            prompts.append(sequence)
    return decoding, prompts
