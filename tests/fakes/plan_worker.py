"""A worker for the scheduler's own tests: it runs plans in order over a KV memory made of token ids.

Writing a token puts its id into the slot that the plan's pages give it; sampling reads the whole context back through the
block table. A page granted to two writers, freed too early or shared with the wrong prefix gives a wrong token immediately.

A step that may return several tokens for a sequence returns a random number of them. It computes as many as were promised, like a
worker whose guesses were wrong: the slots after the returned tokens hold invalid data.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.step_result import SampledTokens, ScoredTokens, StepResult
from scheduler.steps.sequence import Sequence
from scheduler.steps.step_plan import PlannedSequence, StepPlan
from scheduler.worker_info import ModelLimits, WorkerInfo

EOS = 0


def next_token(context: list[int], vocab_size: int) -> int:
    """Return the fake model's next token, which depends on all tokens of the context and their order."""
    state = len(context)
    for token in context:
        state = (state * 31 + token + 7) % 1_000_003
    return state % vocab_size


def expected_output(prompt: list[int], *, max_tokens: int, vocab_size: int, ignore_eos: bool) -> list[int]:
    """Return what an undisturbed run generates."""
    context = list(prompt)
    while len(context) - len(prompt) < max_tokens:
        context.append(next_token(context, vocab_size))
        if context[-1] == EOS and not ignore_eos:
            break
    return context[len(prompt) :]


def prompt_logprob(token_ids: list[int], position: int) -> TokenLogprobs:
    """Return the token's log-probability, which depends on the whole context."""
    return TokenLogprobs(logprob=-float(1 + next_token(token_ids[: position + 1], 50)), top=())


def worker_info(worker_id: str = "w0", *, num_pages: int = 16, page_size: int = 4, **limits: int) -> WorkerInfo:
    values = {"max_model_len": 64, "max_step_tokens": 16, "max_step_sequences": 8, "vocab_size": 50} | limits
    return WorkerInfo(
        worker_id=worker_id,
        epoch=1,
        model="fake",
        model_digest="f" * 64,
        device="cpu",
        numerics_id="fake",
        weights_bytes=0,
        kv_bytes=0,
        limits=ModelLimits(page_size=page_size, num_pages=num_pages, **values),
    )


@dataclass(slots=True)
class Known:
    token_ids: list[int]
    num_prompt_tokens: int
    is_scored: bool
    attempt: int
    ignore_eos: bool
    block_table: list[int] = field(default_factory=list)
    stopped: bool = False


def _known(sequence: Sequence) -> Known:
    return Known(
        token_ids=list(sequence.token_ids),
        num_prompt_tokens=sequence.num_prompt_tokens,
        is_scored=sequence.sampling.num_prompt_logprobs is not None,
        attempt=sequence.computation.attempt,
        ignore_eos=sequence.sampling.ignore_eos,
    )


@dataclass(slots=True)
class KVMemory:
    slots: list[int | None]
    """Token id in each slot."""
    names: dict[PageId, BlockHash] = field(default_factory=dict)
    """Block names that the scheduler gave to pages that were not written to since."""


class PlanWorker:
    """A `WorkerLink` and a `LoadLink`. A plan stays in `queue` until the test calls `run_step`, a lease until its last step ran."""

    def __init__(
        self, info: WorkerInfo, memory: "KVMemory | None" = None, recall_delay: int = 0, seed: int = 0
    ) -> None:
        """Create the worker. With a memory, the process of an earlier stream continues and its pages keep their content.

        A recall arrives after `recall_delay` more steps. The seed decides how many tokens each step returns.
        """
        self.info = info
        self.memory = memory or KVMemory(slots=[None] * (info.limits.num_pages * info.limits.page_size))
        self.queue: deque[tuple[StepPlan, dict[int, Known]]] = deque()
        self.plans: list[StepPlan] = []
        """All plans that were sent."""
        self.recalled: list[int] = []
        """First step of each lease that was recalled."""
        self.is_draining = False
        self.is_unloaded = False
        self.loads: list[tuple[str, str]] = []
        """Model and digest of each load command."""
        self._known: dict[int, Known] = {}
        self._num_leased = 0
        """Number of steps of the queue's first plan that have run."""
        source = random.Random(seed)
        self.count_tokens: Callable[[int], int] = lambda most: source.randint(1, most)
        """Function from the most tokens that a step may return for a sequence to the number that it returns."""
        self._recall_delay = recall_delay
        self._recalls: list[tuple[int, int]] = []
        """Number of steps until the recall arrives, and its lease, for each recall."""

    def send_step(self, plan: StepPlan) -> None:
        # A stream carries the state at the time of sending. The plan is copied because the scheduler changes it afterwards.
        new = {s.sequence_id: _known(s) for s in plan.new_sequences}
        self.queue.append((plan, new))
        self.plans.append(plan)

    def send_recall(self, step_id: int) -> None:
        self._recalls.append((self._recall_delay, step_id))
        self.recalled.append(step_id)

    def send_unload(self) -> None:
        assert not self.queue, "a step is in flight"
        self.is_unloaded = True

    def send_load(self, model: str, digest: str) -> None:
        self.loads.append((model, digest))

    def send_drain(self) -> None:
        self.is_draining = True

    def lose_stream(self) -> None:
        """Drop queued plans and the rest of a lease; the next stream starts with the content of the pages."""
        self.queue.clear()

    def next_reaches(self) -> dict[str, int]:
        """Return the position that each request's sequence reaches in the next step that `run_step` runs."""
        if not self.queue:
            return {}
        plan, new = self.queue[0]
        known = self._known | new
        return {
            planned.sequence.request_id: self._start(planned, known[planned.sequence.sequence_id]) + planned.num_tokens
            for planned in plan.scheduled
            if planned.num_steps > self._num_leased and not known[planned.sequence.sequence_id].stopped
        }

    def run_step(self) -> StepResult:
        plan, new = self.queue[0]
        if not self._num_leased:
            self._begin(plan, new)
        self._num_leased += 1
        sampled, scored, goes_on = [], [], False
        for planned in plan.scheduled:
            known = self._known[planned.sequence.sequence_id]
            if known.stopped or planned.num_steps < self._num_leased:
                continue
            start = self._start(planned, known)
            self._check_range(planned, start)
            self._write(known, start, planned.num_tokens)
            if scores := self._score(planned.sequence.sequence_id, known, start, planned.num_tokens):
                scored.append(scores)
            if planned.max_new_tokens:
                sampled.append(self._sample(planned, known))
                goes_on |= not known.stopped and planned.num_steps > self._num_leased
        step_id = plan.step_id + self._num_leased - 1
        return StepResult(
            step_id=step_id,
            sampled=tuple(sampled),
            scored=tuple(scored),
            next_is_last=self._end(plan, goes_on),
        )

    def _begin(self, plan: StepPlan, new: dict[int, Known]) -> None:
        for sequence_id in plan.finished_sequence_ids:
            del self._known[sequence_id]
        self._wipe(plan.idle_pages)
        self.memory.names |= dict(plan.sealed_blocks)
        assert not self._known.keys() & new.keys(), "the whole sequence was sent to a worker that has it"
        self._known |= new
        for planned in plan.scheduled:
            self._known[planned.sequence.sequence_id].block_table += planned.new_page_ids
            if plan.max_steps > 1:
                assert planned.num_tokens == 1 and planned.max_new_tokens, "a lease for a sequence that prefills"
            assert 1 <= planned.num_steps <= plan.max_steps
            assert planned.max_new_tokens <= self.info.limits.max_new_tokens

    def _wipe(self, idle_pages: tuple[range, ...]) -> None:
        used = {page for known in self._known.values() for page in known.block_table}
        size = self.info.limits.page_size
        for page in (page for run in idle_pages for page in run):
            assert page not in used, "a page in use is called idle"
            self.memory.slots[page * size : (page + 1) * size] = [None] * size
            self.memory.names.pop(PageId(page), None)

    def _end(self, plan: StepPlan, goes_on: bool) -> bool:
        """Remove the plan after its last step; return True if it is a lease that ends early, with the next plan."""
        is_recalled = any(delay <= 0 and step_id == plan.step_id for delay, step_id in self._recalls)
        self._recalls = [(delay - 1, step_id) for delay, step_id in self._recalls]
        num_left = plan.max_steps - self._num_leased
        if num_left == 0:
            self.queue.popleft()
            self._num_leased = 0
        elif num_left > 1 and (is_recalled or not goes_on):
            self.queue[0] = (replace(plan, max_steps=self._num_leased + 1), {})
            return True
        return False

    def _start(self, planned: PlannedSequence, known: Known) -> int:
        """Return the start of a chunk: a sampling chunk's is the sequence's position, any other's is in the plan."""
        return len(known.token_ids) - planned.num_tokens if planned.max_new_tokens else planned.start

    def _check_range(self, planned: PlannedSequence, start: int) -> None:
        num_before = self._num_leased - 1
        least, most = planned.start + num_before, planned.max_start + num_before * planned.max_new_tokens
        assert least <= start <= most, f"the plan allows [{least}, {most}], the sequence is at {start}"

    def _score(self, sequence_id: int, known: Known, start: int, num_tokens: int) -> ScoredTokens | None:
        first, end = start + 1, min(start + num_tokens + 1, known.num_prompt_tokens)
        if not known.is_scored or first >= end:
            return None
        scores = tuple(prompt_logprob(known.token_ids, position) for position in range(first, end))
        return ScoredTokens(sequence_id=sequence_id, attempt=known.attempt, start=first, logprobs=scores)

    def _slot(self, known: Known, position: int) -> int:
        page_size = self.info.limits.page_size
        return known.block_table[position // page_size] * page_size + position % page_size

    def _write(self, known: Known, start: int, num_tokens: int) -> None:
        for position in range(start, start + num_tokens):
            slot = self._slot(known, position)
            self.memory.slots[slot] = known.token_ids[position]
            self.memory.names.pop(PageId(slot // self.info.limits.page_size), None)

    def _sample(self, planned: PlannedSequence, known: Known) -> SampledTokens:
        first = len(known.token_ids)
        for number in range(self.count_tokens(planned.max_new_tokens)):
            if number:
                self._write(known, first + number - 1, 1)
            self._append_token(known)
            if known.stopped:
                break
        self._write_rubbish(known, len(known.token_ids) - 1, first + planned.max_new_tokens - 1)
        return SampledTokens(
            sequence_id=planned.sequence.sequence_id,
            attempt=known.attempt,
            token_ids=tuple(known.token_ids[first:]),
            stopped=known.stopped,
        )

    def _append_token(self, known: Known) -> None:
        context = [self.memory.slots[self._slot(known, position)] for position in range(len(known.token_ids))]
        assert context == known.token_ids, "the pages do not have the sequence's tokens"
        token = next_token(known.token_ids, self.info.limits.vocab_size)
        known.token_ids.append(token)
        known.stopped = token == EOS and not known.ignore_eos

    def _write_rubbish(self, known: Known, start: int, end: int) -> None:
        for position in range(start, end):
            slot = self._slot(known, position)
            self.memory.slots[slot] = None
            self.memory.names.pop(PageId(slot // self.info.limits.page_size), None)
