"""Tests of a loop with more models than workers: loads, unloads, waiting requests and errors."""

from dataclasses import replace
from typing import Any

import pytest

from pagoda.wire.loadable_models import LoadableModels
from scheduler.errors import InvalidRequestError, RequestError, UnavailableError
from scheduler.loop import SchedulerLoop
from scheduler.models.model_waiters import MAX_LOST_LOADS
from scheduler.models.worker_stores import UnloadedWorker
from scheduler.policy import SchedulingPolicy
from scheduler.publish.tracing import SequenceTracing
from scheduler.steps.worker_state import AttachedWorker
from scheduler.worker_info import WorkerInfo, WorkerStore, only_itself
from tests.fakes.client import RecordingClient
from tests.fakes.clock import FakeClock
from tests.fakes.plan_worker import PlanWorker, worker_info
from tests.fakes.span_recorder import SpanRecorder, events_of
from tests.unit.scheduler.test_loop import expected, request

NEEDED_BYTES = 10
LOAD_S = 2.0


def info(worker_id: str, model: str, digest: str = "") -> WorkerInfo:
    return replace(worker_info(worker_id), model=model, model_digest=digest or f"digest of {model}")


class System:
    """A loop whose workers can load a, b and c. They load and unload immediately unless a test says otherwise."""

    def __init__(self, *worker_ids: str, available_bytes: int = 1000) -> None:
        self.clock = FakeClock()
        self.recorder = SpanRecorder()
        self.loop = SchedulerLoop(
            self.clock, SchedulingPolicy(worker_grace_s=60.0), sequences=SequenceTracing(self.recorder.tracer)
        )
        self.client = RecordingClient()
        self.available_bytes = available_bytes
        self.digests = {model: "" for model in "abc"}
        self.home_model: str | None = None
        self.needed_bytes: dict[str, int] = {}
        """Needs of models that differ from NEEDED_BYTES."""
        self.model_info: dict[str, Any] = {}
        """Properties of models that are loaded."""
        self.links: dict[str, PlanWorker] = {}
        self.attached: dict[str, AttachedWorker] = {}
        self.unloaded: dict[str, UnloadedWorker] = {}
        self.history: list[str] = []
        """Loads and unloads so far, as `worker+model` and `worker-model`."""
        for worker_id in worker_ids:
            self.attach_unloaded(worker_id)

    def store(self, worker_id: str) -> WorkerStore:
        infos = {name: info(worker_id, name, digest) for name, digest in self.digests.items()}
        models = [
            replace(only_itself(each).loadable.models[0], needed_bytes=self.needed_bytes.get(name, NEEDED_BYTES))
            for name, each in infos.items()
        ]
        loadable = LoadableModels(
            models=tuple(models),
            host_id="h",
            available_bytes=self.available_bytes,
            home_model=self.home_model,
            checks_memory=True,
        )
        return WorkerStore(loadable=loadable, infos=infos)

    def attach_unloaded(self, worker_id: str) -> None:
        link = self.links[worker_id] = PlanWorker(info(worker_id, ""))
        self.unloaded[worker_id] = self.loop.attachments.attach_unloaded_worker(worker_id, self.store(worker_id), link)
        self.clock.run_soon()

    def attach(self, worker_id: str, model: str) -> None:
        loaded = replace(info(worker_id, model, self.digests[model]), **self.model_info)
        link = self.links[worker_id] = PlanWorker(loaded)
        self.attached[worker_id] = self.loop.attachments.attach_worker(link.info, link, store=self.store(worker_id))
        self.clock.run_soon()

    def ask(self, model: str, request_id: str = "", max_tokens: int = 5) -> None:
        asked = replace(request(request_id or model, max_tokens=max_tokens), model=model)
        self.loop.requests.submit_request(asked, self.client)
        self.clock.run_soon()

    def step(self, worker_id: str) -> None:
        self.loop.apply_result(self.attached[worker_id], self.links[worker_id].run_step())
        self.clock.run_soon()

    def obey(self) -> bool:
        """Carry out one pending load or unload. Return False if there is none."""
        for worker_id, link in list(self.links.items()):
            if link.is_unloaded:
                self.history.append(f"{worker_id}-{link.info.model}")
                self.loop.attachments.detach_worker(self.attached.pop(worker_id))
                self.attach_unloaded(worker_id)
                return True
            if link.loads:
                model, _ = link.loads.pop()
                self.history.append(f"{worker_id}+{model}")
                self.clock.advance(LOAD_S)
                self.loop.attachments.detach_unloaded_worker(self.unloaded.pop(worker_id), is_lost=False)
                self.attach(worker_id, model)
                return True
        return False

    def run(self) -> None:
        """Run until no worker has anything to do."""
        while self.obey() or any(link.queue for link in self.links.values()):
            for worker_id, link in list(self.links.items()):
                if link.queue:
                    self.step(worker_id)

    def check(self, *request_ids: str, max_tokens: int = 5) -> None:
        for request_id in request_ids:
            answer = expected(request(request_id, max_tokens=max_tokens), max_tokens)
            assert self.client.tokens[request_id, 0] == answer
        assert not self.client.failed


def test_one_slot_serves_all_in_turn() -> None:
    system = System("w")
    for number, model in enumerate("abca"):
        system.ask(model, str(number))
        system.run()
    system.check("0", "1", "2", "3")
    assert system.history == ["w+a", "w-a", "w+b", "w-b", "w+c", "w-c", "w+a"]
    counters = system.loop.counters.models
    assert (counters.num_loads, counters.num_unloads, counters.load_s) == (4, 3, 4 * LOAD_S)


def test_no_model_is_unloaded_for_one_that_cannot_fit() -> None:
    system = System("w")
    system.ask("a", "0")
    system.run()
    system.needed_bytes["b"] = 5_000_000_000
    system.loop.loading.set_worker_store("w", system.store("w"))
    system.ask("b", "1")
    outcomes: list[RequestError | None] = []
    system.loop.loading.keep_loaded("b", 60.0, outcomes.append)
    system.clock.run_soon()
    system.run()
    [(_, error)] = system.client.failed.items()
    assert isinstance(error, UnavailableError)
    assert "b needs about 5.0 GB of memory, but at most 300 MB would be available" in str(error)
    assert [type(outcome) for outcome in outcomes] == [UnavailableError]
    assert system.history == ["w+a"]
    assert system.loop.counters.models.num_failed_loads == 2


def test_two_names_of_the_same_files_are_one_model_in_memory() -> None:
    system = System()
    system.digests |= {"a": "same files", "b": "same files"}
    system.attach_unloaded("w")
    for request_id, model in enumerate("aba"):
        system.ask(model, str(request_id))
    system.run()
    system.ask("b", "3")
    system.run()
    assert system.history == ["w+a"]
    system.check("0", "1", "2", "3")
    system.loop.loading.keep_loaded("b", 0, on_outcome=lambda _: None)
    system.clock.run_soon()
    system.run()
    assert system.history == ["w+a", "w-a"]


def test_no_name_is_the_only_model_that_workers_were_started_with() -> None:
    system = System()
    system.home_model = "b"
    system.attach_unloaded("w")
    system.ask("", "1")
    system.run()
    assert system.history == ["w+b"]

    system.home_model = "c"
    system.attach_unloaded("v")
    with pytest.raises(InvalidRequestError, match="model is required, because there are several: b, c"):
        system.ask("", "2")


def test_models_share_the_slots_and_the_longest_unused_goes() -> None:
    system = System("v", "w")
    for model in "ab":
        system.ask(model)
        system.run()
        system.clock.advance(1.0)
    system.ask("a", "a again")
    system.run()
    system.ask("c")
    system.run()
    assert system.history == ["v+a", "w+b", "w-b", "w+c"]
    system.check("a", "b", "a again", "c")


def test_a_model_goes_when_its_requests_have_ended_and_those_that_came_later_wait() -> None:
    system = System("w")
    system.ask("a", "first", max_tokens=8)
    system.obey()
    system.clock.advance(100.0)
    system.ask("b")
    system.clock.advance(1.0)
    system.ask("a", "last")
    system.step("w")
    assert not system.links["w"].is_unloaded, "it has a running request"
    assert [each.request_id for each in system.attached["w"].running] == ["first"]
    system.run()
    assert system.history == ["w+a", "w-a", "w+b", "w-b", "w+a"]
    system.check("b", "last")
    system.check("first", max_tokens=8)


def test_two_busy_models_change_places_no_more_often_than_their_loads_allow() -> None:
    system = System("w")
    for number in range(60):
        system.ask("ab"[number % 2], str(number))
        system.clock.advance(0.5)
        if system.obey() or not system.links["w"].queue:
            continue
        system.step("w")
    system.run()
    system.check(*map(str, range(60)))
    assert 2 < len([move for move in system.history if "+" in move]) < 12


def test_memory_is_made_where_it_is_short() -> None:
    system = System("v", "w", available_bytes=NEEDED_BYTES)
    system.ask("a")
    system.obey()
    system.available_bytes = NEEDED_BYTES - 1
    system.loop.loading.set_worker_store("w", system.store("w"))
    system.run()
    system.ask("b")
    system.available_bytes = NEEDED_BYTES
    system.run()
    assert system.history == ["v+a", "v-a", "v+b"]
    system.check("a", "b")


@pytest.mark.parametrize(("kv_bytes", "moves"), [(160, ["v-a", "w+b"]), (16, ["w+b"])])
def test_memory_that_pages_may_still_take_is_not_free(kv_bytes: int, moves: list[str]) -> None:
    """Nearly all pages of a are untouched, so about `kv_bytes` may still be taken from the 100 free bytes."""
    system = System("v", "w", available_bytes=100)
    system.model_info = {"kv_bytes": kv_bytes, "device": "cpu"}
    system.ask("a")
    system.run()
    system.ask("b")
    system.run()
    assert system.history == ["v+a", *moves]
    system.check("a", "b")


def test_a_load_without_memory_is_tried_once_more_when_another_has_left() -> None:
    system = System("v", "w")
    system.ask("a")
    system.run()
    system.ask("b")
    failing = system.unloaded["w"]
    assert system.links["w"].loads.pop()[0] == "b"
    system.loop.loading.record_failed_load(failing, "no memory", out_of_memory=True)
    system.loop.loading.stores.set_available_bytes("w", 1000)
    system.clock.run_soon()
    assert system.links["v"].is_unloaded and not system.links["w"].loads
    system.obey()
    (again,) = [worker_id for worker_id, link in system.links.items() if link.loads]
    system.links[again].loads.clear()
    system.loop.loading.record_failed_load(system.unloaded[again], "still no memory", out_of_memory=True)
    error = system.client.failed["b"]
    assert isinstance(error, UnavailableError) and "still no memory" in error.message


def test_an_old_stream_that_says_goodbye_does_not_take_the_new_one_along() -> None:
    system = System("w")
    old = system.unloaded["w"]
    system.attach_unloaded("w")
    system.loop.attachments.let_worker_leave(old)
    system.ask("a")
    system.run()
    assert system.history == ["w+a"]
    system.check("a")


def test_what_cannot_be_loaded_fails_its_own_requests_only() -> None:
    system = System("w")
    told: list[RequestError | None] = []
    system.ask("a", "running")
    system.obey()
    system.ask("b")
    system.loop.loading.keep_loaded("b", None, told.append)
    while not system.links["w"].loads:
        system.obey()
        if system.links["w"].queue:
            system.step("w")
    system.links["w"].loads.clear()
    system.ask("c")
    system.loop.loading.record_failed_load(system.unloaded["w"], "unsupported architecture", out_of_memory=False)
    system.clock.run_soon()
    system.run()
    assert set(system.client.failed) == {"b"} and "unsupported architecture" in system.client.failed["b"].message
    assert [str(each) for each in told] == [str(system.client.failed["b"])]
    assert system.client.tokens["c", 0] and system.client.tokens["running", 0]


def test_a_replaced_model_is_served_from_its_new_files() -> None:
    system = System("w")
    system.ask("a", "before", max_tokens=8)
    system.obey()
    system.step("w")
    system.digests["a"] = "new"
    system.loop.loading.set_worker_store("w", system.store("w"))
    system.ask("a", "after")
    system.step("w")
    assert [each.request_id for each in system.attached["w"].running] == ["before"]
    system.run()
    assert system.history == ["w+a", "w-a", "w+a"]
    assert system.attached["w"].info.model_digest == "new"
    system.check("after")


def test_a_new_model_can_be_asked_for_once_a_worker_has_it() -> None:
    system = System("w")
    with pytest.raises(RequestError, match="'d' is not served"):
        system.ask("d")
    system.digests["d"] = ""
    system.loop.loading.set_worker_store("w", system.store("w"))
    system.ask("d")
    system.run()
    system.check("d")


def test_a_worker_lost_while_loading_is_not_waited_for_where_another_is_empty() -> None:
    system = System("v", "w")
    system.ask("a")
    assert system.links.pop("v").loads
    system.loop.attachments.detach_unloaded_worker(system.unloaded.pop("v"), is_lost=True)
    system.clock.run_soon()
    system.run()
    assert system.history == ["w+a"]
    system.check("a")


def test_a_model_whose_load_kills_every_worker_is_given_up() -> None:
    system = System("w")
    system.ask("a")
    for _ in range(MAX_LOST_LOADS):
        assert system.links["w"].loads
        system.loop.attachments.detach_unloaded_worker(system.unloaded.pop("w"), is_lost=True)
        system.attach_unloaded("w")
    assert "were lost while they loaded model 'a'" in system.client.failed["a"].message
    assert not system.links["w"].loads


def test_who_waits_for_a_model_has_it_in_the_trace() -> None:
    system = System("w")
    system.ask("a")
    system.run()
    system.ask("a", "warm")
    system.run()
    cold, warm = system.recorder.named("sequence")
    assert [event for event in events_of(cold) if event.startswith("model")] == ["model loading", "model loaded"]
    assert not any(event.startswith("model") for event in events_of(warm))


def test_a_worker_that_restarts_with_its_own_model_takes_up_the_load_that_killed_it() -> None:
    system = System("w")
    system.ask("b")
    assert system.links["w"].loads
    system.links.pop("w")
    system.loop.attachments.detach_unloaded_worker(system.unloaded.pop("w"), is_lost=True)
    system.clock.advance(9.0)
    system.attach("w2", "a")
    system.run()
    assert system.history == ["w2-a", "w2+b"]
    system.check("b")
