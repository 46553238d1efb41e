"""The engine over a model that reads and writes through pages: tokens depend on the sequence, never on how it was computed."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import SampledTokens, ScoredTokens
from tests.fakes.paged_model import VOCAB_SIZE, PagedModel, paged_tokens
from worker.errors import SamplingError, StepError
from worker.kernels.interface import LayerKV
from worker.kernels.step_batch import StepBatch
from worker.steps.engine import Engine
from worker.steps.step import NewSequence, ScheduledSequence, Step

PAGE_SIZE = 4
PROMPT = (7, 3, 9, 1, 4, 4, 2, 8, 5, 6)


class Driver:
    """Drives one engine as a scheduler would, one sequence after the other or several at once."""

    def __init__(self, eos_token_ids: tuple[int, ...] = (), num_pages: int = 64) -> None:
        self.model = PagedModel(PAGE_SIZE)
        kv = paged_tokens(num_pages=num_pages, page_size=PAGE_SIZE)
        self.engine = Engine(self.model, kv, VOCAB_SIZE, eos_token_ids)
        self._free_pages = list(reversed(range(num_pages)))
        self._num_pages_of: dict[int, int] = {}
        self._num_steps = 0
        self.scored: list[ScoredTokens] = []

    def run(self, *scheduled: ScheduledSequence, **difference: Any) -> list[SampledTokens]:
        self._num_steps += 1
        result = self.engine.run_step(Step(step_id=self._num_steps, scheduled=scheduled, **difference))
        assert result.step_id == self._num_steps
        self.scored += result.scored
        return list(result.sampled)

    def chunk(self, sequence_id: int, start: int, num_tokens: int, *, sample: bool = True) -> ScheduledSequence:
        known = self._num_pages_of.get(sequence_id, 0)
        needed = -(-(start + num_tokens) // PAGE_SIZE)
        self._num_pages_of[sequence_id] = max(known, needed)
        pages = tuple(self._free_pages.pop() for _ in range(needed - known))
        return ScheduledSequence(sequence_id, start, start, num_tokens, pages, max_new_tokens=int(sample))

    def forget_pages(self, sequence_id: int) -> None:
        self._free_pages = self._free_pages[: len(self._free_pages) // 2]
        del self._num_pages_of[sequence_id]

    def prefill(self, new: NewSequence, chunk_sizes: Sequence[int]) -> int:
        """In chunks of these sizes, the last as long as it must be; the sampled token."""
        start, total = 0, len(new.token_ids)
        for size in chunk_sizes:
            if start + size >= total:
                break
            assert self.run(self.chunk(new.sequence_id, start, size, sample=False), **_first(new, start)) == []
            start += size
        [sampled] = self.run(self.chunk(new.sequence_id, start, total - start), **_first(new, start))
        return sampled.token_ids[0]

    def generate(self, new: NewSequence, count: int, chunk_sizes: Sequence[int] = ()) -> list[int]:
        tokens = [self.prefill(new, chunk_sizes)]
        while len(tokens) < count:
            [sampled] = self.run(self.chunk(new.sequence_id, len(new.token_ids) + len(tokens) - 1, 1))
            tokens.extend(sampled.token_ids)
        return tokens


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


GREEDY: dict[str, Any] = {"temperature": 0.0}
PENALISED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.4}


@given(st.lists(st.integers(1, 6), max_size=10), st.sampled_from([GREEDY, {}, PENALISED]))
@settings(deadline=None)
def test_chunked_prefill_gives_the_tokens_of_a_whole_one(chunk_sizes: list[int], sampling: dict[str, Any]) -> None:
    new = new_sequence(**sampling)
    assert Driver().generate(new, 8, chunk_sizes) == Driver().generate(new, 8)


@given(st.lists(st.integers(1, 6), max_size=10), st.integers(0, 3))
@settings(deadline=None)
def test_a_prompt_is_scored_alike_in_chunks_and_whole(chunk_sizes: list[int], num_top: int) -> None:
    """Each of its tokens as it would be if the answer had been that token."""
    driver = Driver()
    new = new_sequence(num_prompt_logprobs=num_top, **GREEDY)
    first_token = driver.prefill(new, chunk_sizes)
    assert first_token == Driver().prefill(new_sequence(**GREEDY), ())
    assert [scored.start for scored in driver.scored] == [
        1 + sum(len(before.logprobs) for before in driver.scored[:place]) for place in range(len(driver.scored))
    ]
    logprobs = [each for scored in driver.scored for each in scored.logprobs]
    assert len(logprobs) == len(PROMPT) - 1 and all(len(each.top) == num_top for each in logprobs)
    for length, found in enumerate(logprobs, start=1):
        forced = new_sequence(
            token_ids=PROMPT[:length],
            num_prompt=length,
            num_logprobs=num_top,
            logit_bias={token_id: -100.0 for token_id in range(VOCAB_SIZE) if token_id != PROMPT[length]},
            **GREEDY,
        )
        other = Driver()
        [sampled] = other.run(other.chunk(1, 0, length), new_sequences=(forced,))
        assert sampled.token_ids == (PROMPT[length],) and sampled.logprobs == (found,)


def test_only_the_prompt_is_scored_and_not_what_was_generated() -> None:
    driver = Driver()
    driver.prefill(new_sequence(token_ids=(*PROMPT, 1, 2, 3), num_prompt_logprobs=0, **GREEDY), (4, 8))
    assert [(scored.start, len(scored.logprobs)) for scored in driver.scored] == [(1, 4), (5, 5)]


@pytest.mark.parametrize("sampling", [GREEDY, {}, PENALISED])
@pytest.mark.parametrize("num_before", [1, 5, 9])
def test_a_new_attempt_goes_on_where_the_preempted_one_was(sampling: dict[str, Any], num_before: int) -> None:
    undisturbed = Driver().generate(new_sequence(**sampling), 10)
    driver = Driver()
    before = driver.generate(new_sequence(**sampling), num_before)
    driver.forget_pages(1)
    resumed = new_sequence(token_ids=(*PROMPT, *before), attempt=2, **sampling)
    assert before + driver.generate(resumed, 10 - num_before) == undisturbed


def test_a_batch_of_mixed_work_gives_each_sequence_its_own_tokens() -> None:
    prompts = {1: PROMPT, 2: (1, 2), 3: tuple(range(10, 30))}
    news = {i: new_sequence(i, prompt, num_prompt=len(prompt), **PENALISED) for i, prompt in prompts.items()}
    alone = {i: Driver().generate(new, 3) for i, new in news.items()}
    driver = Driver()
    together: dict[int, list[int]] = {1: [], 2: [], 3: []}
    # 1 decodes while 2 joins and 3 is still prefilled in chunks.
    steps: list[tuple[list[ScheduledSequence], dict[str, Any]]] = [
        ([driver.chunk(1, 0, 10)], {"new_sequences": (news[1],)}),
        ([driver.chunk(1, 10, 1), driver.chunk(3, 0, 7, sample=False)], {"new_sequences": (news[3],)}),
        (
            [driver.chunk(3, 7, 13), driver.chunk(2, 0, 2), driver.chunk(1, 11, 1)],
            {"new_sequences": (news[2],)},
        ),
        ([driver.chunk(2, 2, 1), driver.chunk(3, 20, 1)], {"finished_sequence_ids": (1,)}),
        ([driver.chunk(2, 3, 1), driver.chunk(3, 21, 1)], {}),
    ]
    for scheduled, difference in steps:
        for sampled in driver.run(*scheduled, **difference):
            together[sampled.sequence_id].extend(sampled.token_ids)
    assert together == alone
    assert driver.model.num_tokens_of_steps == [10, 8, 16, 2, 2]


def test_a_prefix_that_its_pages_hold_already_is_not_computed_again() -> None:
    driver = Driver()
    whole = driver.generate(new_sequence(1), 1)
    # Two full pages of the first sequence, then a page of its own.
    own_page = 63
    scheduled = ScheduledSequence(2, 8, 8, num_tokens=2, new_page_ids=(0, 1, own_page), max_new_tokens=1)
    [sampled] = driver.run(scheduled, new_sequences=(new_sequence(2),))
    assert list(sampled.token_ids) == whole
    assert driver.model.num_tokens_of_steps[-1] == 2


def greedy_tokens(count: int) -> list[int]:
    return Driver().generate(new_sequence(**GREEDY), count)


def test_the_end_of_generation_stops_a_sequence_and_the_step_in_flight_leaves_it_out() -> None:
    first, second, *_ = greedy_tokens(3)
    driver = Driver(eos_token_ids=(second,))
    assert driver.generate(new_sequence(**GREEDY), 1) == [first]
    [sampled] = driver.run(driver.chunk(1, 10, 1))
    assert (sampled.token_ids, sampled.stopped, sampled.stop_token_id) == ((second,), True, None)
    assert driver.run(driver.chunk(1, 11, 1)) == []
    assert driver.model.num_tokens_of_steps == [10, 1]


def test_stop_tokens_are_reported_and_ignore_eos_goes_on() -> None:
    first, second, third = greedy_tokens(3)
    assert len({first, second, third}) == 3
    driver = Driver(eos_token_ids=(first,))
    assert driver.generate(new_sequence(ignore_eos=True, stop_token_ids=(second,), **GREEDY), 1) == [first]
    [sampled] = driver.run(driver.chunk(1, 10, 1))
    assert (sampled.stopped, sampled.stop_token_id) == (True, second)


def test_min_tokens_puts_off_the_end() -> None:
    first, *_ = greedy_tokens(1)
    tokens = Driver(eos_token_ids=(first,)).generate(new_sequence(min_tokens=3, **GREEDY), 3)
    assert first not in tokens


def test_logprobs_come_with_each_token_if_asked_for() -> None:
    driver = Driver()
    [sampled] = driver.run(driver.chunk(1, 0, 10), new_sequences=(new_sequence(num_logprobs=2, **GREEDY),))
    [logprobs] = sampled.logprobs
    assert logprobs.top[0] == (sampled.token_ids[0], logprobs.logprob)
    assert len(logprobs.top) == 2
    [sampled] = driver.run(driver.chunk(2, 0, 10), new_sequences=(new_sequence(2, **GREEDY),))
    assert sampled.logprobs == ()


def test_a_step_without_work_does_not_call_the_model() -> None:
    driver = Driver()
    assert driver.run(finished_sequence_ids=(5,)) == []
    assert driver.model.num_tokens_of_steps == []


def test_reset_forgets_all_sequences() -> None:
    driver = Driver()
    driver.generate(new_sequence(), 1)
    driver.engine.reset()
    with pytest.raises(StepError, match="unknown"):
        driver.run(driver.chunk(1, 10, 1))


def test_a_model_that_computes_nan_fails_the_step() -> None:
    class BrokenModel:
        def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
            return torch.full((len(batch.sample_rows_R), VOCAB_SIZE), torch.nan)

    engine = Engine(BrokenModel(), paged_tokens(num_pages=4, page_size=PAGE_SIZE), VOCAB_SIZE, ())
    scheduled = ScheduledSequence(1, 0, 0, num_tokens=10, new_page_ids=(0, 1, 2), max_new_tokens=1)
    with pytest.raises(SamplingError, match="sequence 1"):
        engine.run_step(Step(step_id=1, new_sequences=(new_sequence(),), scheduled=(scheduled,)))
