"""The real engine over a model of token ids, driven as a scheduler drives it."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, ScoredTokens
from tests.fakes.executors import Wrap, plain
from tests.fakes.grammar_vocabulary import make_guides
from tests.fakes.paged_model import VOCAB_SIZE, PagedModel, paged_tokens
from worker.steps.engine import BegunStep, Engine
from worker.steps.host_executor import HostExecutor, StepModel
from worker.steps.step import NewSequence, ScheduledSequence, Step

PAGE_SIZE = 4
PROMPT = (7, 3, 9, 1, 4, 4, 2, 8, 5, 6)


class Driver:
    """A driver of one engine, for one sequence after the other or several at once."""

    def __init__(
        self,
        eos_token_ids: tuple[int, ...] = (),
        num_pages: int = 64,
        wrap: Wrap = plain,
        max_new_tokens: int | None = None,
    ) -> None:
        """Create a driver that lets a step return at most `max_new_tokens` tokens of a sequence, or what the engine can."""
        self.model = PagedModel(PAGE_SIZE)
        self.engine = make_engine(self.model, eos_token_ids, num_pages, wrap)
        self._max_new_tokens = max_new_tokens or self.engine.max_new_tokens
        self._free_pages = list(reversed(range(num_pages)))
        self._num_pages_of: dict[int, int] = {}
        self._num_steps = 0
        self.sampled: list[SampledTokens] = []
        """What the steps returned, in order."""
        self.scored: list[ScoredTokens] = []

    def run(self, *scheduled: ScheduledSequence, **difference: Any) -> list[SampledTokens]:
        return self.finish(self.begin(*scheduled, **difference))

    def begin(self, *scheduled: ScheduledSequence, **difference: Any) -> BegunStep:
        self._num_steps += 1
        return self.engine.begin_step(Step(step_id=self._num_steps, scheduled=scheduled, **difference))

    def finish(self, begun: BegunStep) -> list[SampledTokens]:
        result = self.engine.finish_step(begun)
        assert result.step_id == begun.step.step_id
        self.scored += result.scored
        self.sampled += result.sampled
        return list(result.sampled)

    def chunk(
        self, sequence_id: int, start: int, num_tokens: int, *, sample: bool = True, max_start: int | None = None
    ) -> ScheduledSequence:
        max_start = start if max_start is None else max_start
        known = self._num_pages_of.get(sequence_id, 0)
        needed = max(known, -(-(max_start + num_tokens + self._max_new_tokens - 1) // PAGE_SIZE))
        self._num_pages_of[sequence_id] = max(known, needed)
        pages = tuple(self._free_pages.pop() for _ in range(needed - known))
        most = self._max_new_tokens if sample else 0
        return ScheduledSequence(sequence_id, start, max_start, num_tokens, pages, max_new_tokens=most)

    def forget_pages(self, sequence_id: int) -> None:
        self._free_pages = self._free_pages[: len(self._free_pages) // 2]
        del self._num_pages_of[sequence_id]

    def prefill(self, new: NewSequence, chunk_sizes: Sequence[int]) -> int:
        """Prefill in chunks of these sizes and a last chunk with the rest; return the sampled token."""
        [sampled] = self.finish(self._begin_prefill(new, chunk_sizes))
        return sampled.token_ids[0]

    def _begin_prefill(self, new: NewSequence, chunk_sizes: Sequence[int]) -> BegunStep:
        """Prefill up to the last chunk, which samples a token and is left unfinished."""
        start, total = 0, len(new.token_ids)
        for size in chunk_sizes:
            if start + size >= total:
                break
            assert self.run(self.chunk(new.sequence_id, start, size, sample=False), **_first(new, start)) == []
            start += size
        return self.begin(self.chunk(new.sequence_id, start, total - start), **_first(new, start))

    def generate(self, new: NewSequence, count: int, chunk_sizes: Sequence[int] = ()) -> list[int]:
        """Run steps until there are this many tokens, with as many steps begun as the engine takes."""
        begun, tokens = deque([self._begin_prefill(new, chunk_sizes)]), list[int]()
        while len(tokens) < count:
            while len(tokens) + len(begun) < count and len(begun) < self.engine.max_in_flight:
                before = len(new.token_ids) + len(tokens) - 1
                start, max_start = before + len(begun), before + len(begun) * self._max_new_tokens
                begun.append(self.begin(self.chunk(new.sequence_id, start, 1, max_start=max_start)))
            [sampled] = self.finish(begun.popleft())
            tokens.extend(sampled.token_ids)
        for late in begun:
            self.finish(late)
        return tokens[:count]

    def answer(self, new: NewSequence, most: int) -> list[int]:
        """Return the tokens of a sequence until one ends it, or the first `most`."""
        return self.answers([new], most)[0]

    def answers(self, news: Sequence[NewSequence], most: int) -> list[list[int]]:
        """Return the tokens of several sequences, which take part in the same steps."""
        answers: dict[int, list[int]] = {new.sequence_id: [] for new in news}
        running = {new.sequence_id: new for new in news}
        chunks = [self.chunk(new.sequence_id, 0, len(new.token_ids)) for new in news]
        difference: dict[str, Any] = {"new_sequences": tuple(news)}
        while running:
            for sampled in self.run(*chunks, **difference):
                answers[sampled.sequence_id] += sampled.token_ids
                if sampled.stopped or len(answers[sampled.sequence_id]) >= most:
                    del running[sampled.sequence_id]
            ends = ((id, len(new.token_ids) + len(answers[id])) for id, new in running.items())
            chunks, difference = [self.chunk(id, end - 1, 1) for id, end in ends], {}
        return [answers[new.sequence_id][:most] for new in news]


def make_engine(model: StepModel, eos_token_ids: Sequence[int] = (), num_pages: int = 64, wrap: Wrap = plain) -> Engine:
    kv = paged_tokens(num_pages=num_pages, page_size=PAGE_SIZE)
    return Engine(
        wrap(HostExecutor(model, kv, eos_token_ids, guides=make_guides(eos_token_ids))),
        page_size=PAGE_SIZE,
        num_pages=num_pages,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=eos_token_ids,
    )


def _first(new: NewSequence, start: int) -> dict[str, Any]:
    return {"new_sequences": (new,)} if start == 0 else {}


def new_sequence(
    sequence_id: int = 1,
    token_ids: tuple[int, ...] = PROMPT,
    *,
    attempt: int = 1,
    num_prompt: int = 10,
    **sampling: Any,
) -> NewSequence:
    return NewSequence(
        sequence_id=sequence_id,
        attempt=attempt,
        token_ids=token_ids,
        num_prompt_tokens=num_prompt,
        sampling=SamplingParams(**({"seed": 3} | sampling)),
        sample_index=0,
    )
