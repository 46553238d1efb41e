"""Memory of pages that no sequence needs goes back to the workers' machines."""

from dataclasses import replace

import pytest

from scheduler.idle_memory import INTERVAL_S
from scheduler.loop import SchedulerLoop
from scheduler.policy import SchedulingPolicy
from scheduler.steps.worker_state import AttachedWorker
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info
from tests.unit.scheduler.test_loop import expected, request

PREFIX_IDLE_S = 60.0


class System:
    def __init__(self, device: str = "cpu", prefix_idle_s: float = PREFIX_IDLE_S) -> None:
        self.clock = FakeClock()
        self.loop = SchedulerLoop(self.clock, SchedulingPolicy(prefix_idle_s=prefix_idle_s))
        info = replace(worker_info(), device=device, kv_bytes=1600)
        self.link = PlanWorker(info)
        self.worker: AttachedWorker = self.loop.attachments.attach_worker(info, self.link)
        self.client = RecordingClient()

    def ask(self, request_id: str) -> None:
        self.loop.requests.submit_request(request(request_id), self.client)
        self.run()
        assert self.client.tokens[request_id, 0] == expected(request(request_id), 5)

    def run(self) -> None:
        self.clock.run_soon()
        while self.link.queue:
            self.loop.apply_result(self.worker, self.link.run_step())
            self.clock.run_soon()

    def rest(self, seconds: float) -> list[int]:
        """Let time pass, and return the pages that the worker learned to be idle."""
        num_plans = len(self.link.plans)
        while seconds > 0:
            self.clock.advance(INTERVAL_S)
            self.run()
            seconds -= INTERVAL_S
        return sorted({page for plan in self.link.plans[num_plans:] for run in plan.idle_pages for page in run})


def test_free_pages_go_first_and_cached_prefixes_after_their_time() -> None:
    system = System()
    system.ask("a")
    cached = sorted(page for page in range(16) if system.worker.pool.block_of(page))  # type: ignore[arg-type]
    assert cached
    at_once = system.rest(2 * INTERVAL_S)
    assert at_once and not set(at_once) & set(cached)
    system.rest(PREFIX_IDLE_S)
    assert system.worker.pool.num_cached == 0 and not system.link.memory.names
    assert system.worker.pool.num_untouched == 16
    assert system.rest(PREFIX_IDLE_S) == [], "there is nothing left to tell"
    system.ask("b")


def test_a_prefix_that_is_used_stays() -> None:
    system = System()
    for number in range(6):
        system.ask(str(number))
        system.rest(PREFIX_IDLE_S / 2)
        assert system.worker.pool.num_cached > 0


def test_a_machine_that_is_short_of_memory_gets_it_soon() -> None:
    system = System()
    system.ask("a")
    system.loop.loading.stores.set_available_bytes("w0", 300)
    system.rest(2 * INTERVAL_S)
    assert system.worker.pool.num_cached == 0


@pytest.mark.parametrize("values", [{"device": "cuda"}, {"prefix_idle_s": float("inf")}])
def test_a_device_keeps_its_pages_and_so_do_all_if_it_is_off(values: dict[str, object]) -> None:
    system = System(**values)  # type: ignore[arg-type]  # the test's shorthand
    system.ask("a")
    assert system.rest(10 * PREFIX_IDLE_S) == []
    assert system.worker.pool.num_cached > 0


def test_a_worker_that_was_dismissed_gets_no_further_step() -> None:
    system = System()
    system.ask("a")
    system.loop.attachments.let_worker_leave(system.worker)
    system.run()
    assert system.link.is_draining
    assert system.rest(PREFIX_IDLE_S) == []
