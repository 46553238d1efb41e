"""Tests of requests that kill workers: they kill few of them, and the requests that ran beside them end well."""

from dataclasses import replace

import pytest

from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.errors import SequenceFailedError
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.constraints import IDLE_CONSTRAINT
from tests.fakes.plan_worker import PlanWorker, expected_output, worker_info

LIMITS = {"num_pages": 100, "max_step_tokens": 32}


@pytest.fixture(autouse=True, params=[1, 4], ids=["one token a step", "up to four"])
def max_new_tokens(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "max_new_tokens", request.param)


class System:
    """A system of workers that die when they compute certain requests far enough, and come back as new processes."""

    def __init__(self, *worker_ids: str, poison: dict[str, int] | None = None, max_lease_steps: int = 1) -> None:
        """Create workers. `poison` has for a request the length beyond which its worker dies."""
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(max_lease_steps=max_lease_steps))
        self.client = RecordingClient()
        self.poison = poison or {}
        self.fakes: dict[AttachedWorker, PlanWorker] = {}
        self.deaths: list[set[str]] = []
        """Requests in the step that killed the worker, for each death."""
        for worker_id in worker_ids:
            self.attach(worker_id)

    def attach(self, worker_id: str, epoch: int = 1) -> AttachedWorker:
        fake = PlanWorker(replace(worker_info(worker_id, **LIMITS), epoch=epoch))
        worker = self.loop.attachments.attach_worker(fake.info, fake)
        self.fakes[worker] = fake
        self.clock.run_soon()
        return worker

    def submit(self, *names: str) -> None:
        for name in names:
            self.loop.requests.submit_request(request(name), self.client)
        self.clock.run_soon()

    def step(self, worker: AttachedWorker) -> None:
        reaches = self.fakes[worker].next_reaches()
        if any(reaches.get(name, 0) > length for name, length in self.poison.items()):
            self.deaths.append(set(reaches))
            self.die(worker)
        elif self.fakes[worker].queue:
            self.loop.apply_result(worker, self.fakes[worker].run_step())
        self.clock.run_soon()

    def die(self, worker: AttachedWorker) -> AttachedWorker:
        del self.fakes[worker]
        self.loop.attachments.detach_worker(worker)
        self.clock.run_soon()
        return self.attach(worker.info.worker_id, worker.info.epoch + 1)

    def finish(self) -> None:
        """Run a step of each worker in turn, until none is left."""
        while any(fake.queue for fake in self.fakes.values()):
            for worker in list(self.fakes):
                self.step(worker)

    def check_answers(self, *names: str) -> None:
        for name in names:
            assert self.client.tokens[name, 0] == expected_tokens(name)
            assert (name, 0) in self.client.finished


def request(name: str, max_tokens: int = 12) -> InferenceRequest:
    return InferenceRequest(
        request_id=name,
        model="fake",
        prompt_token_ids=[1 + ord(name[0]) % 49, 2, 3, 4, 5, 6],
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, constraint=IDLE_CONSTRAINT),
    )


def expected_tokens(name: str) -> list[int]:
    return expected_output(list(request(name).prompt_token_ids), max_tokens=12, vocab_size=50, ignore_eos=True)


@pytest.mark.parametrize("max_lease_steps", [1, 8])
@pytest.mark.parametrize("length", [0, 5, 9, 14])
@pytest.mark.parametrize("worker_ids", [["w0"], ["w0", "w1", "w2"]])
def test_a_poison_request_kills_three_workers_and_its_neighbours_end_well(
    worker_ids: list[str], length: int, max_lease_steps: int
) -> None:
    system = System(*worker_ids, poison={"poison": length}, max_lease_steps=max_lease_steps)
    system.submit("a", "b", "poison", "c", "d")
    system.finish()
    assert system.client.failed.keys() == {"poison"}
    assert isinstance(system.client.failed["poison"], SequenceFailedError)
    system.check_answers("a", "b", "c", "d")
    assert len(system.deaths) == 3
    assert system.deaths[2] == {"poison"}
    assert all(worker.pool.num_used == 0 for worker in system.loop.workers.values())


def test_several_poison_requests_are_found_one_after_the_other() -> None:
    system = System("w0", "w1", poison={"p": 8, "q": 9})
    system.submit("p", "a", "q", "b", "c")
    system.finish()
    assert system.client.failed.keys() == {"p", "q"}
    system.check_answers("a", "b", "c")
    assert len(system.deaths) <= 6


def suspect(system: System, worker: AttachedWorker, *names: str) -> AttachedWorker:
    """Kill the worker of these requests twice, before they get any further."""
    system.submit(*names)
    return system.die(system.die(worker))


def test_a_suspect_runs_alone_until_it_is_cleared_and_others_wait_their_turn() -> None:
    system = System("w0")
    (worker,) = system.fakes
    worker = suspect(system, worker, "a", "b")
    system.submit("innocent")
    together: list[set[str]] = []
    while system.fakes[worker].queue:
        together.append({planned.sequence.request_id for planned in system.fakes[worker].queue[0][0].scheduled})
        system.step(worker)
    first, second = together.index({"a"}), together.index({"b"})
    third = next(number for number, names in enumerate(together) if "innocent" in names)
    assert first < second < third
    assert together[third] == {"a", "b", "innocent"}
    system.check_answers("a", "b", "innocent")


def test_other_workers_go_on_with_everybody_else() -> None:
    system = System("w0")
    (worker,) = system.fakes
    worker = suspect(system, worker, "a", "b")
    other = system.attach("w1")
    system.submit("c", "d")
    assert [sequence.request_id for sequence in worker.running] == ["a"]
    assert [sequence.request_id for sequence in other.running] == ["c", "d"]
    system.finish()
    system.check_answers("a", "b", "c", "d")


def test_a_busy_worker_makes_way_for_a_suspect_where_nobody_else_can_run_it() -> None:
    system = System("w0")
    (worker,) = system.fakes
    worker = suspect(system, worker, "a")
    while worker.running[0].deaths.makes_suspect:
        system.step(worker)
    busy = system.attach("w1")
    system.submit("b", "c", "d", "e")
    system.loop.attachments.detach_worker(worker)
    del system.fakes[worker]
    for _ in range(2):
        busy = system.die(busy)
    assert len(busy.running) == 1 and busy.running[0].deaths.makes_suspect
    system.finish()
    system.check_answers(*"abcde")


def test_who_gets_further_each_time_is_never_a_suspect() -> None:
    system = System("w0")
    (worker,) = system.fakes
    system.submit("a", "b")
    for _ in range(5):
        for _ in range(4):
            system.step(worker)
        worker = system.die(worker)
        assert not any(sequence.deaths.makes_suspect for sequence in worker.running)
    system.finish()
    system.check_answers("a", "b")


def test_only_what_was_in_flight_counts() -> None:
    system = System("w0")
    (worker,) = system.fakes
    # A long prompt fills both steps in flight; the other requests are not admitted to a step yet.
    long = replace(request("long"), prompt_token_ids=[7] * 60)
    system.loop.requests.submit_request(long, system.client)
    system.clock.run_soon()
    system.submit("late")
    system.die(worker)
    counts = {sequence.request_id: sequence.deaths.count for sequence in worker.running}
    by_name = {each.request_id: each.deaths.count for each in (*system.loop.waiting, *next(iter(system.fakes)).running)}
    assert counts == {}
    assert by_name["long"] == 1 and by_name["late"] == 0


def test_a_worker_that_reconnects_did_not_die() -> None:
    system = System("w0")
    system.submit("a")
    for _ in range(5):
        (worker,) = system.fakes
        del system.fakes[worker]
        system.attach("w0")
    system.finish()
    system.check_answers("a")
