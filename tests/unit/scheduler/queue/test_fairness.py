"""Tests of fair shares between tenants: the order of the queue, and the bound on the difference between two tenants."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.errors import QueueFullError
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.queue.fair_queue import OUTPUT_TOKEN_COST, PROMPT_TOKEN_COST
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info


class System:
    def __init__(self, num_workers: int = 1, **limits: int) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(max_waiting=2000, max_waiting_per_tenant=1000))
        self.client = RecordingClient()
        self.asked: dict[str, InferenceRequest] = {}
        self.links: dict[AttachedWorker, PlanWorker] = {}
        for number in range(num_workers):
            link = PlanWorker(worker_info(f"w{number}", **limits))
            self.links[self.loop.attachments.attach_worker(link.info, link)] = link
        self.clock.run_soon()

    def ask(self, tenant: str, prompt: int = 4, max_tokens: int = 4, priority: int = 0) -> str:
        number = len(self.asked)
        # No two prompts share a block.
        tokens = [1 + (number * 7 + 3 * place + place * place * number) % 49 for place in range(prompt)]
        request = InferenceRequest(
            request_id=f"{tenant}{number}",
            model="fake",
            prompt_token_ids=tokens,
            sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
            tenant=tenant,
            priority=priority,
        )
        self.asked[request.request_id] = request
        self.loop.requests.submit_request(request, self.client)
        self.clock.run_soon()
        return request.request_id

    def step(self) -> bool:
        busy = [(worker, link) for worker, link in self.links.items() if link.queue]
        for worker, link in busy:
            self.loop.apply_result(worker, link.run_step())
            self.clock.run_soon()
        return bool(busy)

    def run(self) -> None:
        while self.step():
            pass

    @property
    def started(self) -> list[str]:
        """Return the requests in the order in which they began."""
        return [request_id for request_id, _ in self.client.started]

    def served(self) -> Counter[str]:
        """Return the cost of the tokens computed for each tenant, as the counters count it."""
        served: Counter[str] = Counter()
        for (request_id, _), event in self.client.started.items():
            num_computed = len(self.asked[request_id].prompt_token_ids) - event.num_cached_tokens
            served[request_id[0]] += PROMPT_TOKEN_COST * num_computed
        for (request_id, _), tokens in self.client.tokens.items():
            served[request_id[0]] += OUTPUT_TOKEN_COST * len(tokens)
        return served


def test_a_tenant_with_many_requests_does_not_delay_another_s_first() -> None:
    system = System(max_step_sequences=2)
    for _ in range(1000):
        system.ask("a")
    first = system.ask("b")
    num_steps = 0
    while first not in system.started:
        assert system.step()
        num_steps += 1
    # The two requests of the other tenant that run already end first, with four tokens each.
    assert num_steps <= 4
    assert system.started.index(first) <= 2


def test_tenants_that_ask_for_the_same_take_turns() -> None:
    system = System(max_step_sequences=1)
    for tenant in "aaaabbbbcccc":
        system.ask(tenant)
    system.run()
    turns = [request_id[0] for request_id in system.started]
    assert all(set(turns[start : start + 3]) == {"a", "b", "c"} for start in range(0, 12, 3))


def test_one_who_asks_for_long_answers_gets_fewer_of_them() -> None:
    system = System(max_step_sequences=1)
    for _ in range(12):
        system.ask("a", max_tokens=16)
        system.ask("b", max_tokens=2)
    while len(system.started) < 12:
        system.step()
    turns = Counter(request_id[0] for request_id in system.started)
    assert turns["b"] >= 3 * turns["a"]


def test_nobody_saves_up() -> None:
    system = System(max_step_sequences=1)
    for _ in range(30):
        system.ask("a", max_tokens=12)
    system.run()
    began = len(system.started)
    for tenant in "aaaabbbb":
        system.ask(tenant)
    system.run()
    turns = [request_id[0] for request_id in system.started[began:]]
    assert turns[:4].count("a") >= 1 and turns.count("a") == 4
    assert all(set(turns[start : start + 2]) == {"a", "b"} for start in range(2, 8, 2))


def test_priorities_come_before_shares() -> None:
    system = System(max_step_sequences=1)
    system.ask("a")
    for _ in range(3):
        system.ask("b")
    urgent = [system.ask("a", priority=-1) for _ in range(3)]
    system.run()
    assert system.started[1:4] == urgent


def test_who_was_preempted_goes_on_before_others_begin() -> None:
    # There are nine pages of four tokens, and two sequences of 8 tokens that grow to 20 each need ten.
    system = System(num_pages=9, max_step_sequences=2)
    for _ in range(2):
        system.ask("a", prompt=8, max_tokens=12)
    for _ in range(3):
        system.ask("b", prompt=8, max_tokens=12)
    while not system.loop.counters.num_preemptions:
        assert system.step()
    [preempted, *others] = system.loop.waiting
    assert preempted.history.first_step_s is not None
    assert others and all(other.history.first_step_s is None for other in others)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=2, max_size=12),
    step_tokens=st.integers(4, 16),
    step_sequences=st.integers(1, 4),
    num_workers=st.integers(1, 2),
)
def test_tenants_that_always_wait_are_served_alike(
    lengths: list[tuple[int, int]], step_tokens: int, step_sequences: int, num_workers: int
) -> None:
    """Check the paper's bound for one engine, which is multiplied by the number of engines."""
    system = System(num_workers, max_step_tokens=step_tokens, max_step_sequences=step_sequences)
    limits = worker_info().limits
    held_tokens = min(limits.num_pages * limits.page_size, 40 * step_sequences)
    bound = num_workers * 2 * max(PROMPT_TOKEN_COST * 20, OUTPUT_TOKEN_COST * held_tokens)
    for number in range(150):
        for tenant, offset in (("a", 0), ("b", 1)):
            if system.loop.waiting.num_waiting(tenant) < 3:
                prompt, max_tokens = lengths[(number + offset * 5) % len(lengths)]
                system.ask(tenant, prompt, max_tokens)
        system.step()
        served = system.served()
        assert abs(served["a"] - served["b"]) <= bound


def test_each_tenant_has_a_queue_of_its_own_to_fill() -> None:
    system = System(max_step_sequences=1)
    with pytest.raises(QueueFullError, match=r"your queue is full: 1000 .*; a new one would wait about"):
        for _ in range(1100):
            system.ask("a")
    system.ask("b")
    with pytest.raises(QueueFullError, match="the queue is full"):
        for tenant in "bcd":
            for _ in range(400):
                system.ask(tenant)


def test_requests_without_a_tenant_are_one_tenant() -> None:
    system = System(max_step_sequences=1)
    for _ in range(20):
        system.ask("a")
    anonymous = replace(system.asked["a0"], request_id="?", tenant="")
    system.loop.requests.submit_request(anonymous, system.client)
    for _ in range(12):
        system.step()
    assert "?" in system.started[:3]
