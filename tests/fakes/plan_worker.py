"""A worker for the scheduler's own tests: it runs plans in order over a KV memory made of token ids.

Writing a token puts its id into the slot that the plan's pages give it; sampling reads the whole context back through the
block table. A page granted to two writers, freed too early or shared with the wrong prefix gives a wrong token at once.
"""

from collections import deque
from dataclasses import dataclass, field

from kvcache.block_hash import BlockHash
from kvcache.page_pool import PageId
from pagoda.logprobs import TokenLogprobs
from scheduler.result import SampledTokens, ScoredTokens, StepResult
from scheduler.sequence import Sequence
from scheduler.worker_state import ModelLimits, StepPlan, WorkerInfo

EOS = 0


def next_token(context: list[int], vocab_size: int) -> int:
    """The fake model: it depends on every token of the context and on their order."""
    state = len(context)
    for token in context:
        state = (state * 31 + token + 7) % 1_000_003
    return state % vocab_size


def expected_output(prompt: list[int], *, max_tokens: int, vocab_size: int, ignore_eos: bool) -> list[int]:
    """What an undisturbed run generates."""
    context = list(prompt)
    while len(context) - len(prompt) < max_tokens:
        context.append(next_token(context, vocab_size))
        if context[-1] == EOS and not ignore_eos:
            break
    return context[len(prompt) :]


def prompt_logprob(token_ids: list[int], position: int) -> TokenLogprobs:
    """Like the token, it depends on the whole context."""
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
        attempt=sequence.attempt,
        ignore_eos=sequence.sampling.ignore_eos,
    )


@dataclass(slots=True)
class KVMemory:
    slots: list[int | None]
    """The token id at each place."""
    names: dict[PageId, BlockHash] = field(default_factory=dict)
    """What the scheduler said of pages that nobody has written to since."""


class PlanWorker:
    """A `WorkerLink`. Plans wait in `queue` until the test calls `run_step`."""

    def __init__(self, info: WorkerInfo, memory: "KVMemory | None" = None) -> None:
        """With a memory, the process of an earlier stream goes on, and its pages hold what they held."""
        self.info = info
        self.memory = memory or KVMemory(slots=[None] * (info.limits.num_pages * info.limits.page_size))
        self.queue: deque[tuple[StepPlan, dict[int, Known]]] = deque()
        self.is_draining = False
        self._known: dict[int, Known] = {}

    def send_step(self, plan: StepPlan) -> None:
        # What the scheduler knows when it sends is what goes down the stream: copied, it must not change afterwards.
        new = {s.sequence_id: _known(s) for s in plan.new_sequences}
        self.queue.append((plan, new))

    def send_drain(self) -> None:
        self.is_draining = True

    def lose_stream(self) -> None:
        """Queued plans are dropped; the next stream begins with what the pages hold."""
        self.queue.clear()

    def run_step(self) -> StepResult:
        plan, new = self.queue.popleft()
        self.memory.names |= dict(plan.sealed_blocks)
        for sequence_id in plan.finished_sequence_ids:
            del self._known[sequence_id]
        assert not self._known.keys() & new.keys(), "a sequence was sent whole although it was known"
        self._known |= new
        sampled, scored = [], []
        for planned in plan.scheduled:
            known = self._known[planned.sequence.sequence_id]
            known.block_table += planned.new_pages
            if known.stopped:
                continue
            self._write(known, planned.start, planned.num_tokens)
            first, end = planned.start + 1, min(planned.start + planned.num_tokens + 1, known.num_prompt_tokens)
            if known.is_scored and first < end:
                scores = tuple(prompt_logprob(known.token_ids, position) for position in range(first, end))
                scored.append(
                    ScoredTokens(
                        sequence_id=planned.sequence.sequence_id, attempt=known.attempt, start=first, logprobs=scores
                    )
                )
            if planned.sample:
                assert planned.start + planned.num_tokens == len(known.token_ids)
                sampled.append(self._sample(planned.sequence.sequence_id, known))
        return StepResult(step_id=plan.step_id, sampled=tuple(sampled), scored=tuple(scored))

    def _slot(self, known: Known, position: int) -> int:
        page_size = self.info.limits.page_size
        return known.block_table[position // page_size] * page_size + position % page_size

    def _write(self, known: Known, start: int, num_tokens: int) -> None:
        for position in range(start, start + num_tokens):
            slot = self._slot(known, position)
            self.memory.slots[slot] = known.token_ids[position]
            self.memory.names.pop(PageId(slot // self.info.limits.page_size), None)

    def _sample(self, sequence_id: int, known: Known) -> SampledTokens:
        context = [self.memory.slots[self._slot(known, position)] for position in range(len(known.token_ids))]
        assert context == known.token_ids, "the pages do not hold the sequence"
        token = next_token(known.token_ids, self.info.limits.vocab_size)
        known.token_ids.append(token)
        known.stopped = token == EOS and not known.ignore_eos
        return SampledTokens(sequence_id=sequence_id, attempt=known.attempt, token_ids=(token,), stopped=known.stopped)
