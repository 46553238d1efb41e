"""Tests of placement in a loop with several workers: prefixes are found again, bursts stay together, no worker stays idle."""

import random
from collections import Counter

from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.routing.placement import contenders
from scheduler.routing.prospect import Prospect
from scheduler.routing.router import Candidate, RoutingPolicy, prefix_aware, rank_of, round_robin
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info

PREFIX = list(range(1, 41)) * 4
OTHER_PREFIX = list(range(2, 42)) * 4


class System:
    def __init__(self, num_workers: int, routing: RoutingPolicy = prefix_aware, **limits: int) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(routing=routing))
        self.client = RecordingClient()
        self.links: dict[AttachedWorker, PlanWorker] = {}
        self.num_asked = 0
        for number in range(num_workers):
            self.attach(f"w{number}", **limits)
        self.clock.run_soon()

    def attach(self, worker_id: str, **limits: int) -> None:
        values = {"num_pages": 1024, "max_step_tokens": 512, "max_model_len": 512} | limits
        link = PlanWorker(worker_info(worker_id, **values))
        self.links[self.loop.attachments.attach_worker(link.info, link)] = link

    def ask(self, prompt: list[int], max_tokens: int = 4, num_samples: int = 1) -> str:
        self.num_asked += 1
        request = InferenceRequest(
            request_id=f"r{self.num_asked}",
            model="fake",
            prompt_token_ids=prompt,
            sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
            num_samples=num_samples,
        )
        self.loop.requests.submit_request(request, self.client)
        return request.request_id

    def worker(self, worker_id: str) -> AttachedWorker:
        return self.loop.workers[worker_id]

    def step(self, worker_id: str) -> None:
        worker = self.worker(worker_id)
        self.loop.apply_result(worker, self.links[worker].run_step())
        self.clock.run_soon()

    def run(self) -> None:
        self.clock.run_soon()
        while busy := [worker.info.worker_id for worker, link in self.links.items() if link.queue]:
            for worker_id in busy:
                self.step(worker_id)

    def places(self) -> dict[str, str]:
        """Return the worker of each request's first sample."""
        return {request_id: event.worker_id for (request_id, index), event in self.client.started.items() if index == 0}

    def num_at(self, worker_id: str) -> int:
        return Counter(event.worker_id for event in self.client.started.values())[worker_id]


def test_those_who_come_back_find_their_prefix() -> None:
    system = System(3)
    first = [system.ask([*prefix, 45]) for prefix in (PREFIX, OTHER_PREFIX)]
    system.run()
    places = system.places()
    assert places[first[0]] != places[first[1]]
    again = [system.ask([*prefix, 46]) for prefix in (OTHER_PREFIX, PREFIX)]
    system.run()
    assert [system.places()[each] for each in again] == [places[each] for each in reversed(first)]
    assert all(system.client.started[each, 0].num_cached_tokens == len(PREFIX) for each in again)


def test_new_prefixes_that_come_one_by_one_fill_all_caches() -> None:
    system = System(2)
    for number in range(4):
        system.ask([number + 1] * 100)
        system.run()
    assert [system.num_at("w0"), system.num_at("w1")] == [2, 2]


def test_siblings_that_arrive_together_go_where_the_first_is_computed() -> None:
    system = System(4)
    for number in range(3):
        system.ask([*PREFIX, 44 + number])
    system.ask(OTHER_PREFIX)
    system.run()
    assert system.num_at("w0") == 3 and system.num_at("w1") == 1


def test_siblings_that_arrive_while_the_first_is_being_computed_do_too() -> None:
    system = System(4, max_step_tokens=64)
    system.ask([*PREFIX, 45])
    system.clock.run_soon()
    system.ask([*PREFIX, 46])
    system.run()
    assert system.num_at("w0") == 2


def test_but_not_all_of_them_when_there_are_more_than_it_is_worth() -> None:
    system = System(4, max_step_sequences=32)
    system.ask([*PREFIX, 45], num_samples=32)
    system.run()
    assert system.num_at("w0") < 32
    assert min(system.num_at(f"w{number}") for number in range(4)) > 0


def test_strangers_are_spread_evenly() -> None:
    system = System(4)
    for number in range(12):
        system.ask([number + 1] * 20)
    system.run()
    assert [system.num_at(f"w{number}") for number in range(4)] == [3, 3, 3, 3]


def test_of_a_step_that_runs_only_what_is_left_counts() -> None:
    system = System(2)
    longer = system.ask([1] * 80, max_tokens=1)
    system.clock.run_soon()
    # At the default speed, the worker has computed 50 of its 80 tokens by now.
    system.clock.advance(0.01)
    shorter = system.ask([2] * 48, max_tokens=1)
    system.clock.run_soon()
    third = system.ask([3] * 16)
    system.run()
    places = system.places()
    assert places[third] == places[longer] != places[shorter]


def test_who_waits_for_a_full_worker_goes_elsewhere_in_time_even_if_that_one_stands_still() -> None:
    system = System(2, max_step_sequences=1)
    system.ask([*PREFIX, 45], max_tokens=100)
    system.clock.run_soon()
    waits = system.ask([*PREFIX, 46])
    system.clock.run_soon()
    assert waits not in system.places(), "nothing is lost yet by waiting"
    system.clock.advance(1.0)
    assert system.places()[waits] == "w1"


def test_whom_a_worker_suits_best_goes_before_one_who_has_waited_for_another() -> None:
    system = System(2, max_step_sequences=1)
    system.ask([*PREFIX, 45], max_tokens=100)
    system.ask(OTHER_PREFIX, max_tokens=1)
    system.clock.run_soon()
    waits, suits = system.ask([*PREFIX, 46]), system.ask([*OTHER_PREFIX, 46])
    system.clock.run_soon()
    system.clock.advance(1.0)
    system.step("w1")
    assert system.places()[suits] == "w1" and waits not in system.places()


def test_a_lost_worker_s_sequences_go_to_the_others() -> None:
    system = System(2)
    asked = [system.ask([*PREFIX, 45 + number]) for number in range(2)]
    system.clock.run_soon()
    system.loop.attachments.detach_worker(system.worker("w0"))
    del system.links[next(worker for worker in system.links if worker.info.worker_id == "w0")]
    system.run()
    assert all((request_id, 0) in system.client.finished for request_id in asked)


def test_a_prompt_goes_to_a_worker_that_can_hold_it() -> None:
    system = System(0)
    system.attach("small", num_pages=4)
    system.attach("wide", num_pages=64)
    asked = system.ask(PREFIX)
    system.run()
    assert system.places()[asked] == "wide" and len(system.client.tokens[asked, 0]) == 4


def test_another_policy() -> None:
    system = System(2, round_robin)
    for number in range(4):
        system.ask([*PREFIX, 44 + number])
    system.run()
    assert [system.num_at("w0"), system.num_at("w1")] == [2, 2]


def test_for_each_worker_that_is_left_out_of_a_decision_a_less_loaded_one_holds_as_much() -> None:
    source = random.Random(1)
    system = System(6, max_step_sequences=2, num_pages=64)
    for _ in range(40):
        system.ask([*PREFIX[: source.randrange(8, 90)], source.randrange(45, 50)], max_tokens=source.randrange(1, 9))
        system.clock.run_soon()
        busy = [worker.info.worker_id for worker, link in system.links.items() if link.queue]
        for worker_id in source.sample(busy, len(busy) // 2):
            system.step(worker_id)
        prospects = (Prospect(worker, system.clock.time()) for worker in system.links)
        by_load = sorted(prospects, key=lambda prospect: prospect.rank)
        for sequence in system.loop.waiting:
            few = contenders(sequence, by_load)
            every = [each.candidate(sequence, can_take_it=each.can_take(sequence)) for each in by_load]
            assert not [each for each in every if not any(_replaces(other, each) for other in few)]


def _replaces(one: Candidate, other: Candidate) -> bool:
    can_as_much = one.num_cached_tokens >= other.num_cached_tokens and one.can_take_it >= other.can_take_it
    return can_as_much and rank_of(one) <= rank_of(other)
