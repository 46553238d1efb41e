"""Tests of the engine with a model that reads and writes pages: tokens depend only on the sequence, not on its chunks."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.engine_driver import PAGE_SIZE, PROMPT, Driver, make_engine, new_sequence
from tests.fakes.executors import (
    EXECUTORS,
    LateExecutor,
    PoisonedExecutor,
    SeveralTokensExecutor,
    Wrap,
    late_and_several,
)
from tests.fakes.paged_model import VOCAB_SIZE, PagedModel
from worker.errors import DeviceLostError, SamplingError, StepError
from worker.kernels.interface import LayerKV
from worker.kernels.step_batch import StepBatch
from worker.steps.engine import BegunStep
from worker.steps.step import ScheduledSequence, Step

GREEDY: dict[str, Any] = {"temperature": 0.0}
ALL_EXECUTORS = pytest.mark.parametrize("wrap", EXECUTORS.values(), ids=EXECUTORS)
PENALISED: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2, "frequency_penalty": 0.4}


@given(
    st.lists(st.integers(1, 6), max_size=10),
    st.sampled_from([GREEDY, {}, PENALISED]),
    st.sampled_from(list(EXECUTORS.values())),
)
@settings(deadline=None)
def test_chunked_prefill_gives_the_tokens_of_a_whole_one(
    chunk_sizes: list[int], sampling: dict[str, Any], wrap: Wrap
) -> None:
    new = new_sequence(**sampling)
    assert Driver(wrap=wrap).generate(new, 8, chunk_sizes) == Driver().generate(new, 8)


@given(st.lists(st.integers(1, 6), max_size=10), st.integers(0, 3))
@settings(deadline=None)
def test_a_prompt_is_scored_alike_in_chunks_and_whole(chunk_sizes: list[int], num_top: int) -> None:
    """Check that each prompt token has the log-probability that it has as the first token of an answer."""
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
@ALL_EXECUTORS
def test_a_new_attempt_goes_on_where_the_preempted_one_was(
    wrap: Wrap, sampling: dict[str, Any], num_before: int
) -> None:
    undisturbed = Driver().generate(new_sequence(**sampling), 10)
    driver = Driver(wrap=wrap)
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
    # Sequence 1 decodes while 2 joins and 3 is still prefilled in chunks.
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
    # The block table has two full pages of the first sequence, then a page of its own.
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


def test_what_was_begun_before_the_end_was_known_is_dropped_from_its_result() -> None:
    first, second, *_ = greedy_tokens(3)
    driver = Driver(eos_token_ids=(second,), wrap=LateExecutor)
    other = new_sequence(2, (1, 2), num_prompt=2, **GREEDY)
    assert driver.generate(new_sequence(**GREEDY), 1) == [first]
    driver.run(driver.chunk(2, 0, 2), new_sequences=(other,))
    last = driver.begin(driver.chunk(1, 10, 1))
    late = driver.begin(driver.chunk(1, 11, 1), driver.chunk(2, 2, 1))
    assert [sampled.stopped for sampled in driver.finish(last)] == [True]
    assert [sampled.sequence_id for sampled in driver.finish(late)] == [2]
    assert driver.run(driver.chunk(1, 12, 1)) == []
    assert driver.model.num_tokens_of_steps == [10, 2, 1, 2]


@pytest.mark.parametrize("wrap", [SeveralTokensExecutor, late_and_several], ids=["several tokens", "late"])
@pytest.mark.parametrize("place", range(12))
def test_a_result_of_several_tokens_ends_with_the_one_that_ends_the_sequence(wrap: Wrap, place: int) -> None:
    tokens = greedy_tokens(12)
    end = tokens.index(tokens[place])
    driver = Driver(eos_token_ids=(tokens[place],), wrap=wrap)
    begun = deque([driver.begin(driver.chunk(1, 0, 10), new_sequences=(new_sequence(**GREEDY),))])
    received, stopped = list[int](), False
    while not stopped:
        start, max_start = 9 + len(received) + len(begun), 9 + len(received) + 4 * len(begun)
        if len(begun) < driver.engine.max_in_flight:
            begun.append(driver.begin(driver.chunk(1, start, 1, max_start=max_start)))
        [sampled] = driver.finish(begun.popleft())
        received += sampled.token_ids
        stopped = sampled.stopped
    assert received == tokens[: end + 1]
    assert all(driver.finish(late) == [] for late in begun)


def begin_with_up_to_four_tokens() -> tuple[Driver, BegunStep, int]:
    """Return a driver, a step that it has begun, and the number of tokens that the step will give."""
    driver = Driver(wrap=late_and_several)
    begun = driver.begin(driver.chunk(1, 0, 10), new_sequences=(new_sequence(**GREEDY),))
    other = Driver(wrap=late_and_several)
    [sampled] = other.run(other.chunk(1, 0, 10), new_sequences=(new_sequence(**GREEDY),))
    return driver, begun, len(sampled.token_ids)


@pytest.mark.parametrize(("start", "max_start"), [(8, 9), (14, 15)])
def test_a_range_in_which_the_worker_cannot_be_fails_the_step_where_it_is_begun(start: int, max_start: int) -> None:
    driver, _, _ = begin_with_up_to_four_tokens()
    with pytest.raises(StepError, match="are known"):
        driver.begin(driver.chunk(1, start, 1, max_start=max_start))


@pytest.mark.parametrize("is_below", [True, False], ids=["below", "above"])
def test_a_range_in_which_the_worker_is_not_fails_the_step_where_it_is_finished(is_below: bool) -> None:
    driver, first, num_tokens = begin_with_up_to_four_tokens()
    assert 1 < num_tokens < 4, "the range can be missed on both sides"
    start = 9 + num_tokens
    missed = (10, start - 1) if is_below else (start + 1, 13)
    second = driver.begin(driver.chunk(1, missed[0], 1, max_start=missed[1]))
    assert len(driver.finish(first)[0].token_ids) == num_tokens
    with pytest.raises(StepError, match=f"scheduled to start at {missed[0]} to {missed[1]}, but was at {start}"):
        driver.finish(second)


def test_within_its_range_a_sequence_starts_where_it_is() -> None:
    driver, first, num_tokens = begin_with_up_to_four_tokens()
    second = driver.begin(driver.chunk(1, 10, 1, max_start=13))
    tokens = [*driver.finish(first)[0].token_ids, *driver.finish(second)[0].token_ids]
    assert tokens == greedy_tokens(len(tokens)) and len(tokens) > num_tokens


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

    engine = make_engine(BrokenModel(), num_pages=4)
    scheduled = ScheduledSequence(1, 0, 0, num_tokens=10, new_page_ids=(0, 1, 2), max_new_tokens=1)
    with pytest.raises(SamplingError, match="sequence 1"):
        engine.run_step(Step(step_id=1, new_sequences=(new_sequence(),), scheduled=(scheduled,)))


def test_an_error_of_a_lost_device_differs_from_that_of_a_step() -> None:
    driver = Driver(wrap=partial(PoisonedExecutor, num_good_steps=1))
    driver.prefill(new_sequence(), ())
    with pytest.raises(DeviceLostError) as raised:
        driver.run(driver.chunk(1, 10, 1))
    assert isinstance(raised.value.__context__, RuntimeError)


def test_a_device_that_survives_an_error_is_used_again() -> None:
    class FailingModel(PagedModel):
        fails = True

        def forward(self, batch: StepBatch, kv: Sequence[LayerKV]) -> torch.Tensor:
            if self.fails:
                raise torch.OutOfMemoryError("no room")
            return super().forward(batch, kv)

    model = FailingModel(PAGE_SIZE)
    engine = make_engine(model)
    scheduled = ScheduledSequence(1, 0, 0, num_tokens=10, new_page_ids=(0, 1, 2), max_new_tokens=1)
    step = Step(step_id=1, new_sequences=(new_sequence(),), scheduled=(scheduled,))
    with pytest.raises(torch.OutOfMemoryError):
        engine.run_step(step)
    model.fails = False
    engine.reset()
    assert len(engine.run_step(step).sampled) == 1
