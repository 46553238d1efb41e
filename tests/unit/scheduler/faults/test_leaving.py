"""Tests of a leaving worker: its sequences move if they can, finish there if they cannot, and only then it is dismissed."""

from dataclasses import replace

from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import only_itself
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, expected_output, worker_info


class System:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(max_lease_steps=8))
        self.client = RecordingClient()
        self.fakes: dict[AttachedWorker, PlanWorker] = {}

    def attach(self, worker_id: str, numerics_id: str = "fake", **limits: int) -> AttachedWorker:
        fake = PlanWorker(replace(worker_info(worker_id, **limits), numerics_id=numerics_id))
        worker = self.loop.attachments.attach_worker(fake.info, fake)
        self.fakes[worker] = fake
        self.clock.run_soon()
        return worker

    def submit(self, *requests: InferenceRequest) -> None:
        for each in requests:
            self.loop.requests.submit_request(each, self.client)
        self.clock.run_soon()

    def leave(self, worker: AttachedWorker) -> None:
        self.loop.attachments.let_worker_leave(worker)
        self.clock.run_soon()

    def step(self, worker: AttachedWorker) -> None:
        self.loop.apply_result(worker, self.fakes[worker].run_step())
        self.clock.run_soon()

    def finish(self) -> None:
        while busy := [worker for worker, fake in self.fakes.items() if fake.queue]:
            for worker in busy:
                self.step(worker)

    def run_queue(self, worker: AttachedWorker) -> None:
        while self.fakes[worker].queue:
            self.step(worker)

    def is_dismissed(self, worker: AttachedWorker) -> bool:
        return self.fakes[worker].is_draining


def request(request_id: str, max_tokens: int = 12) -> InferenceRequest:
    return InferenceRequest(
        request_id=request_id,
        model="",
        prompt_token_ids=[*request_id.encode("ascii"), 5, 6, 7],
        sampling=SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True),
    )


def check_tokens(system: System, *requests: InferenceRequest) -> None:
    for asked in requests:
        max_tokens = asked.sampling.max_tokens or 0
        expected = expected_output(list(asked.prompt_token_ids), max_tokens=max_tokens, vocab_size=150, ignore_eos=True)
        assert system.client.tokens[asked.request_id, 0] == expected


def test_its_sequences_go_on_at_another_worker_with_the_same_tokens() -> None:
    system, asked = System(), [request("a"), request("b")]
    leaving = system.attach("w0", vocab_size=150)
    system.submit(*asked)
    for _ in range(3):
        system.step(leaving)
    system.attach("w1", vocab_size=150)
    assert not system.client.moved
    system.leave(leaving)
    assert not system.is_dismissed(leaving), "steps that it was sent are not answered yet"
    assert not leaving.running
    system.finish()
    assert system.is_dismissed(leaving)
    assert [(moved.from_worker_id, moved.to_worker_id) for moved in system.client.moved] == [("w0", "w1")] * 2
    check_tokens(system, *asked)
    assert [end.timings.num_preemptions for end in system.client.finished.values()] == [0, 0]


def test_what_nobody_else_can_take_ends_where_it_is() -> None:
    system, asked = System(), [request("a"), request("b"), request("c")]
    leaving = system.attach("w0", vocab_size=150)
    system.submit(*asked)
    system.step(leaving)
    system.attach("small", vocab_size=150, max_step_sequences=1)
    system.leave(leaving)
    assert [sequence.request_id for sequence in leaving.running] == ["b", "c"]
    system.finish()
    assert system.is_dismissed(leaving)
    check_tokens(system, *asked)


def test_it_is_given_no_new_sequence() -> None:
    system = System()
    leaving = system.attach("w0", vocab_size=150)
    system.submit(request("old"))
    system.leave(leaving)
    assert not system.loop.is_ready
    system.submit(request("new"))
    system.finish()
    assert system.is_dismissed(leaving) and set(system.client.finished) == {("old", 0)}
    system.attach("w1", vocab_size=150)
    system.finish()
    check_tokens(system, request("old"), request("new"))


def test_workers_that_give_the_same_bits_are_waited_for() -> None:
    system, asked = System(), [request("a"), request("b")]
    leaving = system.attach("w0", vocab_size=150)
    system.submit(*asked)
    system.step(leaving)
    system.attach("same", vocab_size=150, max_step_sequences=1)
    system.attach("different", numerics_id="other", vocab_size=150)
    system.leave(leaving)
    assert [sequence.request_id for sequence in leaving.running] == ["b"]
    system.finish()
    assert {moved.to_worker_id for moved in system.client.moved} == {"same"}


def test_where_none_gives_the_same_bits_any_will_do() -> None:
    system = System()
    leaving = system.attach("w0", vocab_size=150)
    system.submit(request("a"))
    system.step(leaving)
    system.attach("different", numerics_id="other", vocab_size=150)
    system.leave(leaving)
    system.finish()
    assert [moved.to_worker_id for moved in system.client.moved] == ["different"]
    check_tokens(system, request("a"))


def test_a_worker_that_goes_before_it_is_dismissed_did_not_die() -> None:
    system = System()
    worker = system.attach("w0", vocab_size=150)
    system.submit(request("a"))
    for number in range(1, 5):
        system.leave(worker)
        del system.fakes[worker]
        system.loop.attachments.detach_worker(worker)
        worker = system.attach(f"w{number}", vocab_size=150)
    system.finish()
    check_tokens(system, request("a"))


def test_a_scheduler_that_drains_lets_each_worker_go_when_it_has_nothing_left_to_do() -> None:
    system, asked = System(), [request("long"), request("short", max_tokens=2)]
    workers = [system.attach(f"w{number}", vocab_size=150, max_step_sequences=1) for number in range(3)]
    system.submit(*asked)
    system.loop.requests.start_draining(lambda: None)
    system.clock.run_soon()
    assert [system.is_dismissed(worker) for worker in workers] == [False, False, True]
    while not system.client.finished:
        for worker in workers[:2]:
            system.step(worker)
    system.run_queue(workers[1])
    assert [system.is_dismissed(worker) for worker in workers] == [False, True, True]
    system.finish()
    check_tokens(system, *asked)
    assert all(map(system.is_dismissed, workers))


def test_a_worker_without_its_model_goes_at_once() -> None:
    system = System()
    link = PlanWorker(worker_info("w0"))
    unloaded = system.loop.attachments.attach_unloaded_worker("w0", only_itself(link.info), link)
    system.loop.attachments.let_worker_leave(unloaded)
    assert link.is_draining and not system.loop.is_ready
