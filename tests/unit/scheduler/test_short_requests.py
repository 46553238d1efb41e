"""Tests of a short request beside long ones, in virtual time: its first token comes soon, and the long ones progress.

The scheduler's own loop plans for a modelled worker, so that a step takes as long as a processor or a GPU would need for it.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.routing.virtual import MODEL, POD, Device, ModelledWorker, VirtualClock
from pagoda.wire.events import Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.queue.events import ClientEvent, Failed
from scheduler.steps.step_decision import PrefillLimits

CPU = Device(
    name="two cores, 135M",
    step_us=15_000,
    token_us=1_000,
    context_us=0.5,
    num_pages=8_192,
    max_step_tokens=512,
    max_step_sequences=64,
    max_model_len=8_192,
)
SHORT = "short"


@dataclass
class Background:
    """Requests that are there before the short request arrives."""

    prompts: Seq[int]
    max_tokens: int = 50
    num_samples: int = 1
    is_scored: bool = False
    is_one_call: bool = False
    tenant: str = "a"

    def requests(self) -> list[InferenceRequest]:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=self.max_tokens,
            ignore_eos=True,
            num_prompt_logprobs=20 if self.is_scored else None,
        )
        return [
            InferenceRequest(
                request_id=f"{self.tenant}{number}",
                model=MODEL,
                # No two prompts share a block.
                prompt_token_ids=[1 + (number * 31 + place * 7 + number * place) % 49_000 for place in range(length)],
                sampling=sampling,
                num_samples=self.num_samples,
                tenant=self.tenant,
                group_id="call" if self.is_one_call else "",
            )
            for number, length in enumerate(self.prompts, start=1)
        ]


class Run:
    def __init__(self, device: Device, limits: PrefillLimits | None = None) -> None:
        self.clock = VirtualClock()
        self.loop = SchedulerLoop(
            self.clock, SchedulingPolicy(max_waiting=4096, prefill_limits=limits or PrefillLimits())
        )
        self.worker = ModelledWorker(self.loop, self.clock, device, "w0", device.num_pages)
        self.first_s: dict[str, float] = {}
        self.finished: set[tuple[str, int]] = set()
        self.num_open = 0
        self.asked: list[InferenceRequest] = []

    def deliver(self, events: Seq[ClientEvent]) -> None:
        for event in events:
            match event:
                case Tokens():
                    self.first_s.setdefault(event.request_id, self.clock.now_s)
                case Finished():
                    self.finished.add((event.request_id, event.sample_index))
                    self.num_open -= 1
                case Failed():
                    raise AssertionError(event.error)

    def ask(self, request: InferenceRequest) -> None:
        self.num_open += request.num_samples
        self.asked.append(request)
        self.loop.requests.submit_request(request, self)

    def ask_at(self, when_s: float, request: InferenceRequest) -> None:
        self.clock.call_at(when_s, partial(self.ask, request))

    def run_to_end(self) -> None:
        self.clock.run(until=lambda: self.num_open == 0)

    def ttft_s(self, when_s: float, request: InferenceRequest) -> float:
        self.ask_at(when_s, request)
        self.clock.run(until=lambda: request.request_id in self.first_s)
        return self.first_s[request.request_id] - when_s


def short(num_tokens: int = 9, tenant: str = "a", max_tokens: int = 16) -> InferenceRequest:
    return InferenceRequest(
        request_id=SHORT,
        model=MODEL,
        prompt_token_ids=range(49_100, 49_100 + num_tokens),
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
        tenant=tenant,
    )


BACKGROUNDS = {
    "two long prompts": Background([7_000, 7_000]),
    "many long prompts": Background([7_000] * 12),
    "prompts of all lengths": Background([7_000, 100, 3_000, 400, 1_200, 60, 5_000, 200] * 6),
    "eight samples of a scored prompt": Background([1_500], num_samples=8, is_scored=True),
    "four requests for eight samples of a scored prompt": Background([1_500] * 4, num_samples=8, is_scored=True),
    "as many samples as may be": Background([1_500], num_samples=128, max_tokens=400),
    "as many samples of a short prompt": Background([9], num_samples=128, max_tokens=400),
    "a call with 64 prompts": Background([300] * 64, is_one_call=True, max_tokens=400),
    "a call with 64 short prompts": Background([30] * 64, is_one_call=True, max_tokens=400),
    "a call with many long prompts": Background([7_000] * 24, is_one_call=True),
    "many prompts of middle length": Background([250] * 40, max_tokens=2),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
@pytest.mark.parametrize(
    ("device", "tenant"), [(CPU, "a"), (CPU, "b"), (POD, "a")], ids=["cpu", "cpu, another's", "gpu"]
)
def test_a_short_request_does_not_wait_for_long_ones(device: Device, name: str, tenant: str) -> None:
    """Check that it takes at most two steps and three times its time alone, whenever it arrives."""
    device = replace(device, max_model_len=8_192)
    alone_s = Run(device).ttft_s(0.0, short())
    for when_s in (0.0, 0.001, 0.55, 1.3, 6.1):
        run = Run(device)
        for request in BACKGROUNDS[name].requests():
            run.ask_at(0.0, request)
        ttft_s = run.ttft_s(when_s, short(tenant=tenant))
        assert ttft_s <= 3 * alone_s + 2 * run.worker.longest_step_s


def test_a_cached_conversation_is_short() -> None:
    run = Run(CPU)
    history = Background([6_000], max_tokens=1, tenant="c").requests()[0]
    run.ask(history)
    run.run_to_end()
    for request in Background([7_000, 7_000]).requests():
        run.ask(request)
    now_s = run.clock.now_s
    asked = replace(history, request_id=SHORT, prompt_token_ids=[*history.prompt_token_ids, 5, 6, 7, 8])
    assert run.ttft_s(now_s + 0.1, asked) <= 3 * 0.05 + 2 * run.worker.longest_step_s


@pytest.mark.parametrize("num_pages", [450, 480, 900])
def test_memory_that_long_prompts_fill_lets_short_ones_in(num_pages: int) -> None:
    """Check pools that hold one of the long prompts (450 pages) or two (900 pages)."""
    device = replace(CPU, num_pages=num_pages)
    alone_s = Run(device).ttft_s(0.0, short())
    for when_s in (0.3, 4.2, 9.6):
        run = Run(device)
        for request in Background([7_000] * 4, max_tokens=20).requests():
            run.ask(request)
        ttft_s = run.ttft_s(when_s, short(max_tokens=4))
        assert ttft_s <= 3 * alone_s + 2 * run.worker.longest_step_s
        run.run_to_end()


@pytest.mark.parametrize("num_places", [1, 2, 8, 64])
@pytest.mark.parametrize("num_pages", [8_192, 500])
def test_a_long_prompt_gets_on_whoever_comes(num_places: int, num_pages: int) -> None:
    """Check that a long prompt progresses while short requests arrive faster than the worker can answer them."""
    run = Run(replace(CPU, max_step_sequences=num_places, num_pages=num_pages))
    [long] = Background([7_000], max_tokens=1, tenant="b").requests()
    interval_s = 0.02

    def come(number: int) -> None:
        if run.num_open < 200:
            run.ask(replace(short(max_tokens=2), request_id=f"short {number}"))
        run.clock.call_at(run.clock.now_s + interval_s, partial(come, number + 1))

    come(0)
    run.ask_at(1.0, long)
    run.clock.run(until=lambda: long.request_id in run.first_s or run.clock.now_s > 200)
    assert run.first_s.get(long.request_id, 1e9) < 100


def test_the_least_urgent_get_on_too() -> None:
    run = Run(CPU)
    patient = replace(short(), request_id="patient", priority=2**31 - 1)

    def come(number: int) -> None:
        if run.num_open < 300:
            run.ask(replace(short(max_tokens=30), request_id=f"urgent {number}"))
        run.clock.call_at(run.clock.now_s + 0.01, partial(come, number + 1))

    come(0)
    run.ask_at(5.0, patient)
    run.clock.run(until=lambda: (patient.request_id, 0) in run.finished or run.clock.now_s > 300)
    assert (patient.request_id, 0) in run.finished


@settings(deadline=None, max_examples=12)
@given(
    asked=st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from([3, 20, 70, 300, 1_000, 4_000]), st.integers(1, 40)),
        min_size=1,
        max_size=12,
    ),
    samples=st.integers(1, 4),
    num_pages=st.integers(300, 1_000),
    num_places=st.integers(1, 24),
    limits=st.builds(
        PrefillLimits,
        max_num_partial=st.integers(1, 9),
        max_long_partial=st.integers(1, 4),
        long_token_threshold=st.integers(0, 600),
    ),
)
def test_every_sequence_ends(
    asked: list[tuple[float, int, int]], samples: int, num_pages: int, num_places: int, limits: PrefillLimits
) -> None:
    run = Run(replace(CPU, num_pages=num_pages, max_step_sequences=num_places), limits)
    for number, (when_s, length, max_tokens) in enumerate(asked):
        [request] = Background(
            [length], max_tokens, samples if number % 3 == 0 else 1, tenant="abc"[number % 3]
        ).requests()
        run.ask_at(when_s, replace(request, request_id=str(number), priority=number % 4 - 1))
    run.clock.run(until=lambda: len(run.asked) == len(asked) and run.num_open == 0)
    assert len({request_id for request_id, _ in run.finished}) == len(asked)
