"""Tests of the unloading of unused models, and of their loading for the next request."""

import math
from dataclasses import replace

import pytest

from scheduler.errors import InvalidRequestError, ModelNotServedError, RequestError, UnavailableError
from scheduler.loop import SchedulerLoop
from scheduler.models.worker_stores import UnloadedWorker
from scheduler.policy import SchedulingPolicy
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import only_itself
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info
from tests.unit.scheduler.test_loop import expected, request

GRACE_S = 30.0


class System:
    """A loop with one worker, whose present stream is `link`."""

    def __init__(self, keep_alive_s: float = math.inf) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(worker_grace_s=GRACE_S, keep_alive_s=keep_alive_s))
        self.client = RecordingClient()
        self.told: list[RequestError | None] = []
        self.attach()

    def attach(self) -> AttachedWorker:
        self.link = PlanWorker(worker_info())
        self.worker = self.loop.attachments.attach_worker(self.link.info, self.link)
        self.clock.run_soon()
        return self.worker

    def attach_unloaded(self) -> UnloadedWorker:
        self.link = PlanWorker(worker_info())
        unloaded = self.loop.attachments.attach_unloaded_worker(
            self.link.info.worker_id, only_itself(self.link.info), self.link
        )
        self.clock.run_soon()
        return unloaded

    def ask(self, request_id: str = "r", keep_alive_s: float | None = None) -> None:
        self.loop.requests.submit_request(replace(request(request_id), keep_alive_s=keep_alive_s), self.client)
        self.clock.run_soon()

    def run(self) -> None:
        while self.link.queue:
            self.loop.apply_result(self.worker, self.link.run_step())
            self.clock.run_soon()

    def keep_loaded(self, keep_alive_s: float | None = None) -> None:
        self.loop.loading.keep_loaded("", keep_alive_s, self.told.append)
        self.clock.run_soon()


def test_a_model_stays_by_default() -> None:
    system = System()
    system.ask()
    system.run()
    system.clock.advance(1e9)
    assert not system.link.is_unloaded


def test_its_time_begins_when_its_last_request_has_ended() -> None:
    system = System()
    system.ask("short", keep_alive_s=60)
    system.ask("long")
    system.clock.advance(1000)
    assert not system.link.is_unloaded
    system.run()
    system.clock.advance(59)
    assert not system.link.is_unloaded
    system.clock.advance(1)
    assert system.link.is_unloaded
    assert not system.loop.workers


def test_a_request_that_says_nothing_begins_the_time_anew_and_leaves_it_as_long() -> None:
    system = System(keep_alive_s=60)
    for number in range(3):
        system.clock.advance(59)
        system.ask(str(number))
        system.run()
    assert not system.link.is_unloaded
    system.clock.advance(60)
    assert system.link.is_unloaded


def test_a_wish_replaces_the_one_before() -> None:
    system = System(keep_alive_s=60)
    system.keep_loaded(3600)
    system.clock.advance(3599)
    assert not system.link.is_unloaded
    system.keep_loaded(math.inf)
    system.clock.advance(1e9)
    assert not system.link.is_unloaded


def test_a_clock_that_is_a_moment_behind_its_timers_is_no_reason_to_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(keep_alive_s=60)
    system.ask()
    system.run()
    monkeypatch.setattr(system.clock, "time", lambda: system.clock.now_s - 0.001)
    system.ask("again")
    system.run()
    monkeypatch.setattr(system.clock, "time", lambda: system.clock.now_s - 0.002)
    system.clock.advance(60)
    assert system.link.is_unloaded


def test_no_time_at_all_unloads_behind_the_request() -> None:
    system = System()
    system.ask(keep_alive_s=0)
    assert not system.link.is_unloaded
    system.run()
    assert system.client.tokens["r", 0] == expected(request(), 5)
    system.clock.run_soon()
    system.clock.advance(0)
    assert system.link.is_unloaded


def test_unloading_waits_for_the_requests_of_others() -> None:
    system = System()
    system.ask()
    system.keep_loaded(0)
    assert system.told == [None]
    assert not system.link.is_unloaded
    system.run()
    system.clock.advance(0)
    assert system.link.is_unloaded


def unloaded_system() -> tuple[System, UnloadedWorker]:
    """Return a system whose worker is attached without the model."""
    system = System()
    system.keep_loaded(0)
    assert system.link.is_unloaded
    system.loop.attachments.detach_worker(system.worker)
    unloaded = system.attach_unloaded()
    system.told.clear()
    return system, unloaded


def test_a_request_brings_it_back_and_gets_its_answer() -> None:
    system, _ = unloaded_system()
    assert not system.link.loads
    system.ask()
    assert system.link.loads == [("fake", "f" * 64)]
    system.ask("second")
    assert len(system.link.loads) == 1
    system.attach()
    system.run()
    assert system.client.tokens["r", 0] == system.client.tokens["second", 0] == expected(request(), 5)


def test_a_request_between_two_streams_of_the_worker_waits() -> None:
    system = System()
    system.keep_loaded(0)
    system.ask()
    system.attach_unloaded()
    assert len(system.link.loads) == 1
    system.attach()
    system.run()
    assert system.client.tokens["r", 0] == expected(request(), 5)


def test_a_model_that_came_back_stays_as_long_as_was_wished_last() -> None:
    system, _ = unloaded_system()
    system.keep_loaded(60)
    assert system.told == []
    system.clock.advance(100)
    system.attach()
    assert system.told == [None]
    system.clock.advance(59)
    assert not system.link.is_unloaded
    system.clock.advance(1)
    assert system.link.is_unloaded


def test_a_wish_is_forgotten_once_it_was_fulfilled() -> None:
    system, _ = unloaded_system()
    system.ask()
    system.attach()
    system.run()
    system.clock.advance(1e9)
    assert not system.link.is_unloaded


def test_who_waits_hears_why_it_cannot_be_loaded_and_may_ask_again() -> None:
    system, unloaded = unloaded_system()
    system.ask()
    system.keep_loaded()
    system.loop.loading.record_failed_load(unloaded, "the file is gone", out_of_memory=False)
    error = system.client.failed["r"]
    assert isinstance(error, UnavailableError)
    assert "the file is gone" in error.message
    assert [str(told) for told in system.told] == [str(error)]
    system.ask("again")
    assert len(system.link.loads) == 2


def test_a_model_that_no_worker_can_compute_is_no_reason_to_try_again() -> None:
    system, unloaded = unloaded_system()
    system.ask()
    reason = "the tensor 'output.weight' is missing"
    system.loop.loading.record_failed_load(unloaded, reason, out_of_memory=False, permanent=True)
    error = system.client.failed["r"]
    assert isinstance(error, InvalidRequestError)
    assert reason in error.message


def test_one_of_two_workers_that_loads_is_enough() -> None:
    system, unloaded = unloaded_system()
    other_link = PlanWorker(worker_info("w1"))
    system.loop.attachments.attach_unloaded_worker("w1", only_itself(other_link.info), other_link)
    system.ask()
    assert (len(system.link.loads), len(other_link.loads)) == (1, 1)
    system.loop.loading.record_failed_load(unloaded, "no memory", out_of_memory=True)
    assert "r" not in system.client.failed
    system.worker, system.link = system.loop.attachments.attach_worker(other_link.info, other_link), other_link
    system.clock.run_soon()
    system.run()
    assert system.client.tokens["r", 0] == expected(request(), 5)


def test_a_worker_that_does_not_come_back_is_forgotten_and_its_requests_fail() -> None:
    system, unloaded = unloaded_system()
    system.ask()
    system.keep_loaded()
    system.loop.attachments.detach_unloaded_worker(unloaded, is_lost=True)
    system.clock.advance(GRACE_S)
    assert isinstance(system.client.failed["r"], UnavailableError)
    assert isinstance(system.told[0], UnavailableError)
    assert not system.loop.is_ready
    with pytest.raises(UnavailableError):
        system.ask("later")


def test_the_loop_is_ready_with_nothing_in_memory() -> None:
    system, _ = unloaded_system()
    assert system.loop.is_ready


def test_only_models_that_somebody_has_can_be_kept() -> None:
    system = System()
    with pytest.raises(ModelNotServedError):
        system.loop.loading.keep_loaded("other", None, system.told.append)


@pytest.mark.parametrize("keep_alive_s", [0, 5, 59])
def test_who_may_only_prolong_does_not_end_what_others_asked_for(keep_alive_s: float) -> None:
    system = System(keep_alive_s=10)
    system.ask("theirs", keep_alive_s=60)
    asked = replace(request("mine"), keep_alive_s=keep_alive_s, keep_alive_only_prolongs=True)
    system.loop.requests.submit_request(asked, system.client)
    system.run()
    system.clock.advance(59)
    assert not system.link.is_unloaded
    system.clock.advance(2)
    assert system.link.is_unloaded


def test_who_may_only_prolong_prolongs() -> None:
    system = System(keep_alive_s=10)
    for keep_alive_s in (100, 0):
        system.loop.loading.keep_loaded("", keep_alive_s, system.told.append, only_prolongs=True)
    system.clock.advance(99)
    assert not system.link.is_unloaded
    system.keep_loaded(0)
    assert system.link.is_unloaded
