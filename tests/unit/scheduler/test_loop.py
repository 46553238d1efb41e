"""Tests of the scheduler's policy as clients see it, one behaviour each."""

from collections.abc import Sequence as Seq
from dataclasses import replace

import pytest

from kvcache.block_hash import BlockHash
from pagoda.wire.events import PromptLogprobs, Tokens
from pagoda.wire.finished import FinishReason
from pagoda.wire.inference_request import InferenceRequest, ResumedSample
from pagoda.wire.logprobs import TokenLogprobs
from pagoda.wire.sampling import SamplingParams
from scheduler.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotServedError,
    QueueFullError,
    UnavailableError,
    WorkerProtocolError,
)
from scheduler.listeners import CacheListener
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.steps.sequence import MAX_SCORED_TOKENS
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.plan_worker import EOS, PlanWorker, expected_output, prompt_logprob, worker_info


def sample(index: int, *generated_token_ids: int, is_finished: bool = False) -> ResumedSample:
    return ResumedSample(sample_index=index, generated_token_ids=generated_token_ids, is_finished=is_finished)


class System:
    """A loop, a clock, one client, and workers whose steps run when a test says so."""

    max_new_tokens = 1
    """Maximum number of new tokens that a worker's step returns for one sequence."""

    def __init__(self, *, max_lease_steps: int = 1, **limits: int) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(
            self.clock, SchedulingPolicy(max_waiting=8, worker_grace_s=30.0, max_lease_steps=max_lease_steps)
        )
        self.client = RecordingClient()
        self.limits = {"max_new_tokens": self.max_new_tokens} | limits
        self.fakes: dict[AttachedWorker, PlanWorker] = {}

    def attach(self, worker_id: str = "w0") -> AttachedWorker:
        fake = PlanWorker(worker_info(worker_id, **self.limits))
        worker = self.loop.attachments.attach_worker(fake.info, fake)
        self.fakes[worker] = fake
        self.clock.run_soon()
        return worker

    def submit(self, request: InferenceRequest) -> None:
        self.loop.requests.submit_request(request, self.client)
        self.clock.run_soon()

    def run_step(self, worker: AttachedWorker) -> None:
        self.loop.apply_result(worker, self.fakes[worker].run_step())
        self.clock.run_soon()

    def run(self, worker: AttachedWorker) -> None:
        while self.fakes[worker].queue:
            self.run_step(worker)


def request(request_id: str = "r", prompt: int = 6, max_tokens: int = 5, first_token: int = 1) -> InferenceRequest:
    return InferenceRequest(
        request_id=request_id,
        model="",
        prompt_token_ids=list(range(first_token, first_token + prompt)),
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, constraint=IDLE_CONSTRAINT),
    )


def expected(asked: InferenceRequest, max_tokens: int) -> list[int]:
    return expected_output(list(asked.prompt_token_ids), max_tokens=max_tokens, vocab_size=50, ignore_eos=True)


@pytest.fixture(autouse=True, params=[1, 4], ids=["one token a step", "up to four"])
def max_new_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(System, "max_new_tokens", request.param)
    return int(request.param)


def test_two_steps_are_in_flight_before_the_first_result() -> None:
    system = System()
    worker = system.attach()
    system.submit(request())
    assert len(system.fakes[worker].queue) == 2
    system.run(worker)
    assert system.client.tokens["r", 0] == expected(request(), 5)


def test_no_step_is_spent_past_max_tokens() -> None:
    system = System()
    worker = system.attach()
    system.submit(request(max_tokens=5))
    system.run(worker)
    # The prompt and four of the tokens are computed. The end of the prompt returns one token; the rest may come in one step.
    assert system.loop.counters.num_step_tokens == 6 + 4
    assert system.loop.counters.num_steps <= 5 and (system.max_new_tokens > 1 or system.loop.counters.num_steps == 5)


def test_a_repeated_prompt_is_taken_from_the_cache_and_says_so() -> None:
    system = System()
    worker = system.attach()
    system.submit(request("first", prompt=11))
    system.run(worker)
    system.submit(request("second", prompt=11))
    system.run(worker)
    assert system.client.finished["first", 0].usage.num_cached_tokens == 0
    assert system.client.started["second", 0].num_cached_tokens == 8
    assert system.client.finished["second", 0].usage.num_cached_tokens == 8
    assert system.client.tokens["second", 0] == system.client.tokens["first", 0]


def test_generated_tokens_are_cached_too() -> None:
    system = System()
    worker = system.attach()
    system.submit(request("first", prompt=6, max_tokens=10))
    system.run(worker)
    conversation = list(range(1, 7)) + system.client.tokens["first", 0] + [9, 9]
    system.submit(replace(request("second"), prompt_token_ids=conversation))
    system.run(worker)
    # Of the 6 + 10 tokens the last was never computed, so there are three full blocks of four.
    assert system.client.finished["second", 0].usage.num_cached_tokens == 12


def test_the_token_that_ends_a_sequence_is_never_computed_so_its_block_is_not_shared() -> None:
    """Check the step that was in flight after the end: it was planned with the last token, but the worker omits the sequence."""
    system = System()
    worker = system.attach()
    prompt = next(
        [first, 2, 3, 4, 5, 6, 7]
        for first in range(1, 50)
        if expected_output([first, 2, 3, 4, 5, 6, 7], max_tokens=1, vocab_size=50, ignore_eos=False) == [EOS]
    )
    ends = replace(request("ends"), prompt_token_ids=prompt)
    system.submit(replace(ends, sampling=replace(ends.sampling, ignore_eos=False)))
    system.run(worker)
    assert system.client.finished["ends", 0].reason is FinishReason.STOP
    system.submit(replace(request("after"), prompt_token_ids=[*prompt, EOS, 9]))
    system.run(worker)
    assert system.client.finished["after", 0].usage.num_cached_tokens == 4


def test_a_burst_of_siblings_computes_their_prompt_once() -> None:
    system = System(num_pages=32)
    worker = system.attach()
    system.submit(replace(request(prompt=13, max_tokens=2), num_samples=4))
    system.run(worker)
    assert [system.client.finished["r", i].usage.num_cached_tokens for i in range(4)] == [0, 12, 12, 12]
    # Computed are the prompt once, its tail of one token three times, and one decoded token for each sample.
    assert system.loop.counters.num_step_tokens == 13 + 3 + 4


def test_different_salts_share_nothing() -> None:
    system = System()
    worker = system.attach()
    system.submit(replace(request("a", prompt=11), cache_salt="a"))
    system.run(worker)
    system.submit(replace(request("b", prompt=11), cache_salt="b"))
    system.run(worker)
    assert system.client.finished["b", 0].usage.num_cached_tokens == 0


def scored(asked: InferenceRequest) -> InferenceRequest:
    return replace(asked, sampling=replace(asked.sampling, num_prompt_logprobs=0))


def scores(asked: InferenceRequest) -> list[TokenLogprobs]:
    prompt = list(asked.prompt_token_ids)
    return [prompt_logprob(prompt, position) for position in range(1, len(prompt))]


def test_a_scored_prompt_is_computed_whole_and_its_blocks_serve_others() -> None:
    system = System(num_pages=40)
    worker = system.attach()
    for name in ("first", "second", "third"):
        asked = request(name, prompt=40)
        system.submit(asked if name == "third" else scored(asked))
        system.run(worker)
    for name, num_cached_tokens in (("first", 0), ("second", 0), ("third", 36)):
        assert system.client.finished[name, 0].usage.num_cached_tokens == num_cached_tokens
    assert system.client.prompt_logprobs["first"] == system.client.prompt_logprobs["second"] == scores(asked)
    assert "third" not in system.client.prompt_logprobs


def test_a_preempted_sequence_is_not_scored_twice() -> None:
    system = System(num_pages=6)
    worker = system.attach()
    asked = scored(request("new", prompt=8, max_tokens=12, first_token=20))
    system.submit(request("old", prompt=8, max_tokens=12))
    system.submit(asked)
    system.run(worker)
    assert system.client.finished["new", 0].timings.num_preemptions > 0
    assert system.client.prompt_logprobs["new"] == scores(asked)
    assert system.client.tokens["new", 0] == expected(asked, 12)


def test_the_samples_of_a_request_are_scored_once() -> None:
    system = System(num_pages=60)
    worker = system.attach()
    asked = replace(scored(request(prompt=40)), num_samples=4)
    system.submit(asked)
    system.run(worker)
    assert system.client.prompt_logprobs["r"] == scores(asked)
    assert [system.client.finished["r", index].usage.num_cached_tokens for index in range(4)] == [0, 36, 36, 36]


def test_samples_do_not_wait_for_the_scores_of_one_that_ended() -> None:
    system = System(num_pages=60, max_step_tokens=4)
    worker = system.attach()
    system.submit(replace(scored(request(prompt=40)), num_samples=2))
    system.loop.requests.finish_sample(system.client, "r", 0, 0)
    system.run(worker)
    assert system.client.tokens["r", 1] == expected(request(prompt=40), 5)


def test_what_goes_on_from_elsewhere_was_scored_there() -> None:
    system = System(num_pages=60)
    worker = system.attach()
    asked = scored(request(prompt=12))
    system.client.tokens["r", 1] = expected(asked, 2)
    system.submit(replace(asked, num_samples=2, resumed=(sample(0), sample(1, *expected(asked, 2)))))
    system.run(worker)
    assert not any(system.client.prompt_logprobs.values())
    assert system.client.tokens["r", 0] == expected(asked, 5)


def test_few_tokens_of_a_prompt_are_scored_in_one_step() -> None:
    system = System(num_pages=300, max_model_len=1000, max_step_tokens=800)
    worker = system.attach()
    asked = replace(request(), prompt_token_ids=[1] * 600)
    system.submit(scored(asked))
    system.run(worker)
    sizes = [len(event.logprobs) for event in system.client.events if isinstance(event, PromptLogprobs)]
    assert sizes == [MAX_SCORED_TOKENS, MAX_SCORED_TOKENS, 599 - 2 * MAX_SCORED_TOKENS]


@pytest.mark.parametrize("num_too_many", [None, 1], ids=["no token", "one too many"])
def test_a_result_that_breaks_its_promise_ends_the_stream(num_too_many: int | None) -> None:
    system = System()
    worker = system.attach()
    system.submit(request(max_tokens=20))
    system.run_step(worker)
    result = system.fakes[worker].run_step()
    [sampled] = result.sampled
    num_tokens = 0 if num_too_many is None else system.max_new_tokens + num_too_many
    wrong = sampled._replace(token_ids=(1,) * num_tokens)
    with pytest.raises(
        WorkerProtocolError, match=f"has {num_tokens} new tokens, which must be between 1 and {system.max_new_tokens}"
    ):
        system.loop.apply_result(worker, replace(result, sampled=(wrong,)))


def test_no_more_is_promised_than_the_sequence_may_have() -> None:
    system = System()
    worker = system.attach()
    fake = system.fakes[worker]
    fake.count_tokens = lambda most: 1
    system.submit(request(max_tokens=4))
    for _ in range(4):
        [sequence] = worker.running
        promised = [plan.scheduled[0].max_new_tokens for plan, _ in fake.queue]
        assert len(sequence.token_ids) + sum(promised) <= 6 + 4
        system.run_step(worker)
    assert not worker.running and system.client.tokens["r", 0] == expected(request(), 4)


def test_several_tokens_are_one_event_with_their_logprobs() -> None:
    system = System()
    worker = system.attach()
    system.submit(request(max_tokens=20))
    system.run_step(worker)
    result = system.fakes[worker].run_step()
    [sampled] = result.sampled
    logprobs = tuple(TokenLogprobs(logprob=-float(number), top=()) for number, _ in enumerate(sampled.token_ids, 1))
    system.loop.apply_result(worker, replace(result, sampled=(sampled._replace(logprobs=logprobs),)))
    first, event = [event for event in system.client.events if isinstance(event, Tokens)]
    assert len(first.token_ids) == 1
    assert (event.sequence_number, event.token_ids, event.logprobs) == (1, sampled.token_ids, logprobs)


def test_a_plan_that_does_not_allow_for_where_the_worker_is_fails_the_step() -> None:
    system = System()
    worker = system.attach()
    system.submit(request(max_tokens=20))
    system.run_step(worker)
    fake = system.fakes[worker]
    plan, new = fake.queue[0]
    [planned] = plan.scheduled
    strange = planned._replace(start=planned.start + 1, max_start=planned.max_start + 1)
    fake.queue[0] = (replace(plan, scheduled=(strange,)), new)
    with pytest.raises(AssertionError, match=r"the plan allows \[7, 7\], the sequence is at 6"):
        fake.run_step()


def test_scores_with_a_hole_end_the_stream() -> None:
    system = System()
    worker = system.attach()
    system.submit(scored(request(prompt=9)))
    result = system.fakes[worker].run_step()
    (whole,) = result.scored
    with pytest.raises(WorkerProtocolError, match=r"begin at 2 \(expected: 1\)"):
        system.loop.apply_result(worker, replace(result, scored=(replace(whole, start=2),)))


def test_a_preempted_sequence_goes_on_with_the_same_tokens() -> None:
    system = System(num_pages=6)
    worker = system.attach()
    system.submit(request("old", prompt=8, max_tokens=12))
    system.submit(request("new", prompt=8, max_tokens=12, first_token=20))
    system.run(worker)
    assert system.client.finished["new", 0].timings.num_preemptions > 0
    assert system.client.finished["old", 0].timings.num_preemptions == 0
    for name, first_token in (("old", 1), ("new", 20)):
        assert system.client.tokens[name, 0] == expected(request(prompt=8, first_token=first_token), 12)


def test_a_sequence_that_alone_outgrows_the_pool_ends_with_length() -> None:
    system = System(num_pages=3)
    worker = system.attach()
    system.submit(request(prompt=8, max_tokens=40))
    system.run(worker)
    finished = system.client.finished["r", 0]
    # Twelve slots hold the prompt and four tokens, from which a fifth is sampled.
    assert (finished.reason, finished.usage.num_output_tokens) == (FinishReason.LENGTH, 5)
    assert system.client.tokens["r", 0] == expected(request(prompt=8), 5)


@pytest.mark.parametrize("next_worker", ["w1", "w0"])
def test_a_lost_worker_is_not_noticed_by_the_client(next_worker: str) -> None:
    """Check that the client gets all tokens and a Moved event, even if the next worker has the same id."""
    system = System()
    worker = system.attach("w0")
    system.submit(request(max_tokens=8))
    system.run_step(worker)
    system.run_step(worker)
    system.loop.attachments.detach_worker(worker)
    other = system.attach(next_worker)
    system.run(other)
    assert system.client.tokens["r", 0] == expected(request(), 8)
    assert [(m.from_worker_id, m.to_worker_id) for m in system.client.moved] == [("w0", next_worker)]


def test_requests_wait_for_a_worker_to_come_back_but_not_forever() -> None:
    system = System()
    worker = system.attach()
    system.submit(request())
    system.loop.attachments.detach_worker(worker)
    system.clock.advance(29.0)
    assert not system.client.failed
    system.clock.advance(2.0)
    assert isinstance(system.client.failed["r"], UnavailableError)


def test_the_wait_for_a_worker_begins_anew_with_each_loss() -> None:
    system = System()
    worker = system.attach("w0")
    system.submit(request(max_tokens=30))
    for number in range(1, 4):
        system.loop.attachments.detach_worker(worker)
        system.clock.advance(20.0)
        assert not system.client.failed
        worker = system.attach(f"w{number}")
        for _ in range(4):
            system.run_step(worker)
        system.clock.advance(5.0)
    system.run(worker)
    assert system.client.tokens["r", 0] == expected(request(), 30)


def test_without_a_worker_a_new_request_is_refused_at_once() -> None:
    with pytest.raises(UnavailableError, match="no worker") as caught:
        System().submit(request())
    assert caught.value.retry_after_s


def test_a_deadline_ends_a_queued_and_a_running_request() -> None:
    system = System(max_step_sequences=1)
    worker = system.attach()
    system.submit(replace(request("running"), timeout_s=2.0))
    system.submit(replace(request("queued"), timeout_s=1.0))
    system.clock.advance(1.5)
    assert isinstance(system.client.failed["queued"], DeadlineExceededError)
    assert "running" not in system.client.failed and not system.loop.waiting
    assert worker.pool.num_used == len(worker.running[0].computation.block_table)
    system.clock.advance(1.0)
    assert isinstance(system.client.failed["running"], DeadlineExceededError)
    assert system.loop.num_running == 0


def test_a_full_queue_answers_at_once_and_queues_nothing() -> None:
    system = System(max_step_sequences=1)
    worker = system.attach()
    for number in range(9):
        system.submit(request(str(number)))
    with pytest.raises(QueueFullError, match=r"8 sequences wait \(limit 8\)") as caught:
        system.submit(request("one too many"))
    assert caught.value.retry_after_s and caught.value.retry_after_s >= 1.0
    system.run(worker)
    assert len(system.client.finished) == 9


def test_priority_goes_before_arrival() -> None:
    system = System(max_step_sequences=1)
    worker = system.attach()
    system.submit(request("running"))
    system.submit(request("normal"))
    system.submit(replace(request("urgent"), priority=-1))
    system.run(worker)
    order = [key[0] for key in system.client.finished]
    assert order == ["running", "urgent", "normal"]


def test_a_client_that_leaves_frees_its_pages_and_gets_an_end() -> None:
    system = System()
    worker = system.attach()
    system.submit(request(prompt=30))
    system.run_step(worker)
    system.loop.requests.cancel_request(system.client, "r")
    assert worker.pool.num_used == 0
    assert system.client.finished["r", 0].reason is FinishReason.ABORT
    system.run(worker)
    assert not system.client.tokens["r", 0]


def test_tokens_past_a_stop_string_are_not_billed() -> None:
    system = System()
    worker = system.attach()
    system.submit(request(max_tokens=20))
    for _ in range(6):
        system.run_step(worker)
    system.loop.requests.finish_sample(system.client, "r", 0, num_tokens=3)
    finished = system.client.finished["r", 0]
    assert (finished.reason, finished.usage.num_output_tokens) == (FinishReason.STOP, 3)


def test_a_resumed_request_continues_numbers_and_limits() -> None:
    system = System()
    worker = system.attach()
    whole = expected(request(), 5)
    system.client.tokens["r", 0] = whole[:2]
    system.submit(replace(request(max_tokens=5), resumed=(sample(0, *whole[:2]),)))
    system.run(worker)
    assert system.client.tokens["r", 0] == whole
    assert system.client.finished["r", 0].usage.num_output_tokens == 5


def test_samples_that_had_finished_elsewhere_are_not_computed() -> None:
    system = System()
    worker = system.attach()
    system.submit(replace(request(), num_samples=3, resumed=(sample(0, is_finished=True), sample(2, is_finished=True))))
    system.run(worker)
    assert system.client.tokens.keys() == system.client.finished.keys() == {("r", 1)}
    with pytest.raises(InvalidRequestError, match="all samples as finished"):
        system.submit(replace(request("none"), resumed=(sample(0, is_finished=True),)))


def test_a_resumed_request_that_had_everything_ends_at_once() -> None:
    system = System()
    system.attach()
    system.submit(replace(request(max_tokens=2), resumed=(sample(0, 1, 2),)))
    assert system.client.finished["r", 0].reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(request(), prompt_token_ids=[]), "at least one token"),
        (request(prompt=49), None),
        (replace(request(), prompt_token_ids=[1] * 64), "64 tokens, but the model's context window is 64"),
        (replace(request(), prompt_token_ids=[50]), "token id 50 is outside the vocabulary of 50"),
        (replace(request(), num_samples=0), r"num_samples must be between 1 and 128 \(got 0\)"),
        (
            replace(request(), sampling=SamplingParams(temperature=2000.0)),
            r"temperature must be between 0 and 1000 \(got 2000.0\)",
        ),
        (replace(request(), resumed=(sample(1, 1),)), "resume names sample_index 1, but the request has 1 samples"),
    ],
)
def test_what_can_never_be_served_is_refused_with_the_reason(wrong: InferenceRequest, message: str | None) -> None:
    system = System()
    system.attach()
    if message is None:
        system.submit(wrong)
        return
    with pytest.raises(InvalidRequestError, match=message):
        system.submit(wrong)
    assert not system.loop.waiting


def test_a_prompt_larger_than_the_memory_is_refused_with_both_numbers() -> None:
    system = System(num_pages=4)
    system.attach()
    with pytest.raises(InvalidRequestError, match="17 tokens, but the KV memory holds 16"):
        system.submit(request(prompt=17))


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    system = System()
    system.attach()
    with pytest.raises(ModelNotServedError, match="'other' is not served; served: fake"):
        system.submit(replace(request(), model="other"))


def test_draining_refuses_new_requests_and_lets_open_ones_end() -> None:
    system = System()
    worker = system.attach()
    system.submit(request())
    ended: list[str] = []
    system.loop.requests.start_draining(lambda: ended.append("idle"))
    assert not system.loop.is_ready
    with pytest.raises(UnavailableError, match="shutting down"):
        system.submit(request("late"))
    assert not ended
    system.run(worker)
    assert ended == ["idle"] and system.client.finished["r", 0].reason is FinishReason.LENGTH


def test_a_worker_comes_back_with_its_cache_even_to_another_scheduler() -> None:
    system = System()
    worker = system.attach()
    system.submit(request("before", prompt=11, max_tokens=6))
    system.run(worker)
    # Of the 11 + 6 tokens the last was never computed, so there are four full blocks of four.
    memory = system.fakes[worker].memory
    assert len(memory.names) == 4
    restarted = System()
    again = PlanWorker(worker_info("w0"), memory)
    attached = restarted.loop.attachments.attach_worker(again.info, again, list(memory.names.items()))
    restarted.fakes[attached] = again
    assert (attached.pool.num_cached, attached.pool.num_free) == (4, 12)
    restarted.submit(request("after", prompt=11, max_tokens=6))
    restarted.run(attached)
    assert restarted.client.finished["after", 0].usage.num_cached_tokens == 8
    assert restarted.client.tokens["after", 0] == system.client.tokens["before", 0]


@pytest.mark.parametrize("num_steps", range(9))
def test_a_page_that_was_written_to_again_is_not_said_to_hold_its_old_block(num_steps: int) -> None:
    """Break the stream at any point while a second prompt takes the pages of the first one."""
    system = System(num_pages=6, max_step_tokens=8)
    worker = system.attach()
    first, second = request("first", prompt=17), request("second", prompt=17, first_token=30)
    system.submit(first)
    system.run(worker)
    system.submit(second)
    fake = system.fakes[worker]
    for step in range(num_steps):
        if not fake.queue:
            break
        # The worker computes the last step, but its result is lost with the stream.
        result = fake.run_step()
        if step < num_steps - 1:
            system.loop.apply_result(worker, result)
            system.clock.run_soon()
    fake.lose_stream()
    again = PlanWorker(fake.info, fake.memory)
    attached = system.loop.attachments.attach_worker(again.info, again, list(fake.memory.names.items()))
    system.fakes[attached] = again
    system.submit(replace(first, request_id="third"))
    system.run(attached)
    assert system.client.tokens["third", 0] == system.client.tokens["first", 0]
    assert system.client.tokens["second", 0] == expected(second, 5)


def test_a_block_is_final_only_with_the_result_of_the_step_that_filled_it() -> None:
    heard: list[tuple[str, int, int]] = []

    class Listener(CacheListener):
        def blocks_changed(self, worker: AttachedWorker, evicted: Seq[BlockHash], sealed: Seq[BlockHash]) -> None:
            heard.append(("changed", len(evicted), len(sealed)))

        def worker_attached(self, worker: AttachedWorker) -> None:
            heard.append(("attached", 0, worker.pool.num_cached))

        def worker_detached(self, worker: AttachedWorker) -> None:
            heard.append(("detached", 0, 0))

    system = System(num_pages=5, max_step_tokens=4)
    system.loop = SchedulerLoop(system.clock, caches=Listener())
    worker = system.attach()
    system.submit(request("first", prompt=8, max_tokens=2))
    assert heard == [("attached", 0, 0)] and len(system.fakes[worker].queue) == 2
    system.run(worker)
    # There are two steps of the prompt, one decode step, and one that only sends the last block to an idle worker.
    assert heard[1:] == [("changed", 0, 1), ("changed", 0, 1), *[("changed", 0, 0)] * 2]
    system.submit(request("second", prompt=16, max_tokens=2, first_token=20))
    system.run(worker)
    assert sum(evicted for _, evicted, _ in heard) == 2 and sum(sealed for _, _, sealed in heard) == 6
    system.loop.attachments.detach_worker(worker)
    assert heard[-1] == ("detached", 0, 0)
