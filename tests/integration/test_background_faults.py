"""Tests with a fault in each background task: the log shows it, and the task's work continues."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.upstream.placement import Placement
from gateway.upstream.scheduler_client import SchedulerClient
from gateway.upstream.scheduler_session import SchedulerSession
from pagoda.rpc.grpc_channel import LastingChannel, open_channel
from pagoda.rpc.grpc_server import GrpcServer
from protos.v1 import inference_pb2, inference_pb2_grpc, worker_pb2
from scheduler.faults.worker_watch import WorkerWatch
from scheduler.loop import SchedulerLoop
from scheduler.models.model_loading import ModelLoading
from scheduler.publish.index_publisher import IndexPublisher
from tests.fakes.engine import continuation
from tests.fakes.faults import Fault, fail_first, faults
from tests.fakes.gateway import RunningGateway
from tests.fakes.scheduler import Answer
from tests.fakes.scheduler_process import instant_worker, scheduler, wait_until_ready
from tests.fakes.scheduler_stream import FakeScheduler as FakeWorkerDoor
from tests.fakes.scheduler_stream import serving
from tests.fakes.waiting import until
from tests.fakes.worker import FakeStore, fake_worker_link
from tests.integration.test_scheduler_services import collect, generate_request
from worker.rpc import scheduler_link
from worker.rpc.session import Session
from worker.steps.step_loop import StepLoop

# The gateway


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (SchedulerClient, "_ask_models_and_load"),
        (SchedulerClient, "_until_due"),
        (SchedulerClient, "_keep_watching_health"),
        (SchedulerClient, "_set_health"),
        (SchedulerSession, "_write"),
        (SchedulerSession, "_dispatch"),
        (LastingChannel, "until_ready"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
async def test_a_gateway_goes_on(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str
) -> None:
    works_again = fail_first(monkeypatch, owner, method)
    # Running calls are not patched; a new session starts all of them again.
    gateway.scheduler.break_sessions()
    client = gateway.app.state.gateway.schedulers.clients[0]
    gateway.scheduler.models.append(inference_pb2.ModelInfo(name="new", digest="n", num_workers=1, page_size=16))
    answer = await gateway.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3})
    assert answer.status_code == 200
    await works_again.wait()
    await until(lambda: "new" in client.models)
    await gateway.scheduler.server.set_serving("protos.v1.InferenceService", False)
    await until(lambda: client.problem is not None)
    assert faults(caplog)


async def test_a_request_that_cannot_be_placed_again_ends_with_an_error(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.scheduler.answer = lambda request, index: Answer(hold_before=1)
    asking = asyncio.create_task(gateway.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 3}))
    await gateway.scheduler.held.get()
    fail_first(monkeypatch, Placement, "_look_up")
    gateway.scheduler.break_sessions()
    assert (await asking).status_code == 500
    assert faults(caplog) == ["request cannot be placed again"]


# The scheduler


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (SchedulerLoop, "apply_result"),
        (WorkerWatch, "tick"),
        (WorkerWatch, "record_sign_of_life"),
        (IndexPublisher, "write"),
        (GrpcServer, "set_serving"),
    ],
    ids=lambda each: each if isinstance(each, str) else each.__name__,
)
async def test_a_scheduler_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str
) -> None:
    async with scheduler(tmp_path, heartbeat_s=0.1) as (address, loop), open_channel(address) as channel:
        works_again = fail_first(monkeypatch, owner, method)
        async with instant_worker(address):
            call = inference_pb2_grpc.InferenceServiceStub(channel).Generate(generate_request(max_tokens=50))
            tokens, _ = await collect(call)
            assert tokens == continuation([72, 101, 108], 50)
            await works_again.wait()
            await until(lambda: loop.is_ready)
            await wait_until_ready(address)
    assert faults(caplog)


# The worker


class FaultyStore(FakeStore):
    """A store whose first refresh and measurement fail, and whose second refresh finds a change."""

    def __init__(self, model: worker_pb2.LoadedModel) -> None:
        super().__init__(model)
        self.looks: list[Fault | bool] = [Fault("refresh"), True]
        self.measurements: list[Fault] = []

    def refresh(self) -> bool:
        if not self.looks:
            return False
        look = self.looks.pop(0)
        if isinstance(look, Fault):
            raise look
        return look

    @property
    def available_bytes(self) -> int | None:  # type: ignore[override]
        if self.measurements:
            raise self.measurements.pop()
        return 7


async def test_a_worker_that_failed_to_look_and_to_measure_goes_on_learning_and_beating(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[FaultyStore] = []

    def make_store(model: worker_pb2.LoadedModel) -> FaultyStore:
        stores.append(FaultyStore(model))
        return stores[-1]

    reported: list[str] = []
    monkeypatch.setattr(ModelLoading, "set_worker_store", lambda self, worker_id, store: reported.append(worker_id))
    async with scheduler(tmp_path, heartbeat_s=0.1, silence_s=2.0) as (address, loop):
        async with instant_worker(address, make_store=make_store):
            session_id = loop.workers["fake-worker"].session_id
            stores[0].measurements.append(Fault("available_bytes"))
            await until(lambda: bool(reported) and not stores[0].measurements)
            await until(lambda: len(faults(caplog)) == 2)
            assert loop.workers["fake-worker"].session_id == session_id
    assert faults(caplog) == ["background task failed"] * 2


@pytest.mark.parametrize("method", ["_watch_scheduler", "_take"])
async def test_a_worker_attaches_again_when_its_session_is_blind_or_silent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A failing message handler ends the session. A failing watch starts again and notices the scheduler's silence."""
    fail_first(monkeypatch, Session, method)
    address = f"unix:{tmp_path / 's.sock'}"
    door = FakeWorkerDoor(heartbeat_interval_ms=20, silence_timeout_ms=200)
    async with serving(door, address):
        link = fake_worker_link(address)
        running = asyncio.create_task(link.run())
        first = await door.sessions.get()
        if method == "_take":
            first.send_heartbeat_ack()
        await door.sessions.get()
        link.stop()
        await running
    assert len(faults(caplog)) == 1


async def test_a_worker_goes_on_looking_for_a_better_scheduler(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    works_again = fail_first(monkeypatch, scheduler_link, "find_peers")
    async with scheduler(tmp_path) as (address, _):
        async with instant_worker(f"{address},unix:{tmp_path / 'none.sock'}", spread_interval_s=0.01):
            await works_again.wait()
    assert faults(caplog) == ["background task failed"]


async def test_the_death_of_the_engines_thread_ends_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's process ends when its engine's thread dies, so that it is restarted: nothing could compute any more."""
    fail_first(monkeypatch, StepLoop, "run")
    async with scheduler(tmp_path) as (address, _):
        with pytest.raises(Fault):
            await fake_worker_link(address).run()
