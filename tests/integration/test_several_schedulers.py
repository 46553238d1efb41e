"""Tests of a gateway with two schedulers: which one gets a request, and how it resumes when one refuses, dies, freezes or drains.

Scripted schedulers hold a stream at a chosen token; the last tests have two real ones, with instant workers.
"""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.errors import ErrorKind, GatewayError
from gateway.telemetry.scheduler_metrics import SchedulerMetrics
from gateway.upstream.open_request import OpenRequest
from gateway.upstream.placement import Placement
from gateway.upstream.prefix_hints import PrefixHints
from gateway.upstream.scheduler_client import SERVICE_NAME, SchedulerClient
from gateway.upstream.schedulers import Schedulers
from kvcache.prefix_index import InMemoryPrefixIndex
from pagoda.wire.events import Moved, Tokens
from pagoda.wire.finished import Finished
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from pagoda.wire.step_result import StepResult
from protos.v1 import inference_pb2
from scheduler.steps.worker_state import WorkerPhase
from tests.fakes.engine import FakeEngine, continuation
from tests.fakes.executors import EXECUTORS, Wrap, plain
from tests.fakes.scheduler import Answer, FakeScheduler
from tests.fakes.scheduler_process import scheduler
from tests.fakes.waiting import until
from tests.fakes.worker import fake_worker_link
from worker.rpc.scheduler_spread import by_preference
from worker.steps.engine import BegunStep

HELLO = list(b"Hello!")
HELD = Answer(hold_before=2)


@dataclass(slots=True)
class Outcome:
    """The events of one request, as its consumer received them."""

    token_ids: list[int] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)
    num_output_tokens: int = 0


async def outcome_of(opened: OpenRequest) -> Outcome:
    outcome = Outcome()
    async for event in opened:
        match event:
            case Tokens():
                assert event.sequence_number == len(outcome.token_ids), "a missing or repeated token"
                outcome.token_ids += event.token_ids
            case Moved():
                outcome.moves.append(event)
            case Finished():
                outcome.num_output_tokens = event.usage.num_output_tokens
    return outcome


def request(
    name: str = "r", *, model: str = "tiny", num_tokens: int = 64, timeout_s: float | None = None
) -> InferenceRequest:
    return InferenceRequest(
        request_id=name,
        model=model,
        prompt_token_ids=tuple(range(1, 25)),
        sampling=SamplingParams(temperature=0, max_tokens=num_tokens, seed=1),
        timeout_s=timeout_s,
    )


@asynccontextmanager
async def running_schedulers(
    *addresses: str, silence_s: float = 60.0, grace_s: float = 60.0
) -> AsyncIterator[tuple[Schedulers, Placement]]:
    clients = [SchedulerClient(address, silence_s=silence_s) for address in addresses]
    schedulers = Schedulers(clients, outage_grace_s=grace_s)
    placement = Placement(schedulers, PrefixHints(InMemoryPrefixIndex()))
    await placement.start()
    try:
        yield schedulers, placement
    finally:
        await placement.close()


@dataclass(frozen=True, slots=True)
class Pair:
    """Two scripted schedulers. If all else is equal, `a` is chosen."""

    a: FakeScheduler
    b: FakeScheduler
    schedulers: Schedulers
    placement: Placement

    async def ask(self, asked: InferenceRequest | None = None) -> Outcome:
        return await outcome_of(await self.placement.open_request(asked or request()))


@asynccontextmanager
async def running_pair(directory: Path, **settings: float) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        a, b = [
            await stack.enter_async_context(FakeScheduler(f"unix:{directory}/{name}.sock", "tiny")) for name in "ab"
        ]
        schedulers, placement = await stack.enter_async_context(running_schedulers(a.address, b.address, **settings))
        await asyncio.gather(*map(until_usable, schedulers.clients))
        yield Pair(a, b, schedulers, placement)


async def until_usable(client: SchedulerClient) -> None:
    """Wait until the session is open and the health is known."""
    await until(lambda: client.problem is None)


@pytest.fixture
async def pair(short_path: Path) -> AsyncIterator[Pair]:
    async with running_pair(short_path) as running:
        yield running


async def held_at(scheduler: FakeScheduler, pair: Pair) -> "asyncio.Task[Outcome]":
    """Start a request that has two tokens from this scheduler, which sends no more."""
    scheduler.answer = lambda *_: HELD
    opened = await pair.placement.open_request(request())
    await scheduler.held.get()
    await until(lambda: opened.generated[0] == HELLO[:2])
    return asyncio.create_task(outcome_of(opened))


# ---- after the first token


async def test_a_killed_schedulers_requests_go_on_elsewhere_at_once(pair: Pair) -> None:
    asked = await held_at(pair.a, pair)
    await pair.a.server.stop(0)
    outcome = await asked
    assert (outcome.token_ids, outcome.num_output_tokens) == (HELLO, len(HELLO))
    assert len(outcome.moves) == 1
    (resumed,) = pair.b.requests[0].resume
    assert list(resumed.generated_token_ids) == HELLO[:2]
    assert pair.schedulers.problem is None
    # New requests do not wait for the dead scheduler either.
    assert (await pair.ask()).token_ids == HELLO
    assert len(pair.b.requests) == 2


async def test_a_frozen_schedulers_requests_go_on_elsewhere_and_it_is_used_again_when_it_answers(
    short_path: Path,
) -> None:
    async with running_pair(short_path, silence_s=0.4) as pair:
        asked = await held_at(pair.a, pair)
        pair.a.thawed.clear()
        assert (await asked).token_ids == HELLO
        assert pair.placement.num_displaced[pair.a.address] >= 1
        pair.a.thawed.set()
        pair.a.answer = lambda *_: Answer()
        await until_usable(pair.schedulers.clients[0])
        pair.b.answer = lambda *_: Answer(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", None))
        assert (await pair.ask()).token_ids == HELLO


async def test_a_drained_schedulers_requests_go_on_elsewhere(pair: Pair) -> None:
    pair.a.answer = lambda *_: Answer(failure_after=3, failure=grpc.StatusCode.UNAVAILABLE)
    outcome = await pair.ask()
    assert (outcome.token_ids, len(outcome.moves)) == (HELLO, 1)
    assert list(pair.b.requests[0].resume[0].generated_token_ids) == HELLO[:3]


async def test_requests_leave_a_scheduler_that_has_lost_its_workers(pair: Pair) -> None:
    asked = await held_at(pair.a, pair)
    pair.a.models = []
    assert (await asked).token_ids == HELLO
    (first,), (second,) = pair.a.requests, pair.b.requests
    assert await pair.a.cancelled.get() == first.request_id != second.request_id


async def test_a_request_that_lost_its_place_waits_until_another_has_room(pair: Pair) -> None:
    refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", None)] * 2
    pair.b.answer = lambda *_: Answer(refusal=refusals.pop() if refusals else None)
    asked = await held_at(pair.a, pair)
    await pair.a.server.stop(0)
    assert (await asked).token_ids == HELLO
    assert not refusals


async def test_when_all_are_lost_the_first_that_is_back_goes_on(pair: Pair) -> None:
    asked = await held_at(pair.a, pair)
    await pair.b.server.stop(0)
    await pair.a.server.stop(0)
    async with FakeScheduler(pair.b.address, "tiny") as successor:
        assert (await asked).token_ids == HELLO
        assert list(successor.requests[0].resume[0].generated_token_ids) == HELLO[:2]


async def test_waiting_ends_with_the_requests_deadline(pair: Pair) -> None:
    for each in (pair.a, pair.b):
        each.answer = lambda *_: HELD
    opened = await pair.placement.open_request(request(timeout_s=0.3))
    await pair.a.held.get()
    for each in (pair.b, pair.a):
        await each.server.stop(0)
    with pytest.raises(GatewayError, match=r"deadline of 0\.3 s") as error:
        await outcome_of(opened)
    assert error.value.kind is ErrorKind.DEADLINE_EXCEEDED


# ---- before the first token

REFUSALS = [
    (grpc.StatusCode.UNAVAILABLE, ErrorKind.UNAVAILABLE),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, ErrorKind.OVERLOADED),
    (grpc.StatusCode.NOT_FOUND, ErrorKind.NOT_FOUND),
]


@pytest.mark.parametrize(("status", "kind"), REFUSALS)
async def test_what_one_refuses_another_is_asked_to_take(pair: Pair, status: grpc.StatusCode, kind: ErrorKind) -> None:
    pair.a.answer = lambda *_: Answer(refusal=(status, "not here", None))
    outcome = await pair.ask()
    assert (outcome.token_ids, outcome.moves) == (HELLO, [])
    pair.b.answer = lambda *_: Answer(refusal=(status, "nor here", 7.0))
    with pytest.raises(GatewayError, match="nor here") as error:
        await pair.ask(replace(request(), prompt_token_ids=(1, 2, 3)))
    assert (error.value.kind, error.value.retry_after_s) == (kind, 7.0)
    assert [len(each.requests) for each in (pair.a, pair.b)] == [2, 2]
    assert f'pagoda_scheduler_retried_requests_total{{scheduler="{pair.a.address}"}} 2.0' in metrics_of(pair)


async def test_what_is_wrong_is_not_asked_twice(pair: Pair) -> None:
    pair.a.answer = lambda *_: Answer(refusal=(grpc.StatusCode.INVALID_ARGUMENT, "too long", None))
    with pytest.raises(GatewayError, match="too long"):
        await pair.ask()
    assert pair.b.requests == []


async def test_who_is_not_ready_is_not_asked(short_path: Path) -> None:
    async with running_pair(short_path) as pair:
        await pair.a.server.set_serving(SERVICE_NAME, False)
        await until(lambda: pair.schedulers.clients[0].problem is not None)
        assert (await pair.ask()).token_ids == HELLO
        assert pair.a.requests == []


async def test_who_has_less_to_do_is_asked(short_path: Path) -> None:
    async with (
        FakeScheduler(f"unix:{short_path}/a.sock", "tiny") as a,
        FakeScheduler(f"unix:{short_path}/b.sock", "tiny") as b,
    ):
        a.load = inference_pb2.GetLoadResponse(num_pending_tokens=1000, num_waiting=3)
        async with running_schedulers(a.address, b.address) as (schedulers, placement):
            await asyncio.gather(*map(until_usable, schedulers.clients))
            await outcome_of(await placement.open_request(request()))
        assert (len(a.requests), len(b.requests)) == (0, 1)


async def test_each_model_is_asked_where_it_is_served(short_path: Path) -> None:
    async with (
        FakeScheduler(f"unix:{short_path}/a.sock", "tiny") as a,
        FakeScheduler(f"unix:{short_path}/b.sock", "other") as b,
    ):
        b.models.append(a.models[0])
        async with running_schedulers(a.address, b.address) as (schedulers, placement):
            await asyncio.gather(*map(until_usable, schedulers.clients))
            assert {model.name: model.num_workers for model in await schedulers.list_models()} == {
                "tiny": 2,
                "other": 1,
            }
            await outcome_of(await placement.open_request(request(model="other")))
            await schedulers.keep_loaded("tiny", 5.0)
            await schedulers.keep_loaded("other", 5.0)
        assert (len(a.requests), len(b.requests)) == (0, 1)
        assert [[kept.model for kept in each.kept_loaded] for each in (a, b)] == [["tiny"], ["tiny", "other"]]


async def test_metrics_have_a_row_for_each(pair: Pair) -> None:
    asked = await held_at(pair.a, pair)
    for address, num_open in ((pair.a.address, 1), (pair.b.address, 0)):
        assert f'pagoda_scheduler_up{{scheduler="{address}"}} 1.0' in metrics_of(pair)
        assert f'pagoda_scheduler_open_requests{{scheduler="{address}"}} {num_open}.0' in metrics_of(pair)
    await pair.a.server.stop(0)
    await asked
    assert f'pagoda_scheduler_up{{scheduler="{pair.a.address}"}} 0.0' in metrics_of(pair)
    assert f'pagoda_scheduler_resumed_requests_total{{scheduler="{pair.a.address}"}} 1.0' in metrics_of(pair)


def metrics_of(pair: Pair) -> str:
    registry = CollectorRegistry()
    registry.register(SchedulerMetrics(pair.schedulers, pair.placement))
    return generate_latest(registry).decode()


# ---- two real schedulers


class HeldEngine(FakeEngine):
    """An engine that waits before its ninth result until the test sets `may_go_on`."""

    def __init__(self, wrap: Wrap = plain) -> None:
        super().__init__(num_pages=256, wrap=wrap)
        self.is_held = threading.Event()
        self.may_go_on = threading.Event()
        self._num_steps = 0

    def finish_step(self, begun: BegunStep) -> StepResult:
        self._num_steps += 1
        if self._num_steps > 8:
            self.is_held.set()
            self.may_go_on.wait()
        return super().finish_step(begun)


@asynccontextmanager
async def attached_worker(
    *addresses: str, worker_id: str, engine: FakeEngine, spread_interval_s: float = 0.0
) -> AsyncIterator[None]:
    link = fake_worker_link(
        ",".join(addresses), worker_id=worker_id, engine=engine, spread_interval_s=spread_interval_s
    )
    working = asyncio.create_task(link.run())
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


def names_that_prefer(address: str, addresses: Sequence[str]) -> Iterator[str]:
    names = (f"w{number}" for number in itertools.count(1))
    return (name for name in names if by_preference(name, addresses)[0] == address)


@pytest.mark.parametrize("wrap", EXECUTORS.values(), ids=EXECUTORS)
async def test_streams_end_undisturbed_when_one_of_two_real_schedulers_ends(short_path: Path, wrap: Wrap) -> None:
    """The scheduler's worker moves to the other scheduler in its list, and so do its streams.

    If a step returns several tokens, a stream resumes after the last one that its client has.
    """
    prompts = [tuple(range(number, 40 + number)) for number in range(32)]
    held = HeldEngine(wrap)
    async with AsyncExitStack() as stack, AsyncExitStack() as ending:
        b, b_loop = await stack.enter_async_context(scheduler(make_directory(short_path / "b")))
        a, _ = await ending.enter_async_context(scheduler(make_directory(short_path / "a")))
        stack.callback(held.may_go_on.set)
        w1, w2 = (next(names_that_prefer(each, (a, b))) for each in (a, b))
        await stack.enter_async_context(attached_worker(a, b, worker_id=w1, engine=held))
        await stack.enter_async_context(
            attached_worker(a, b, worker_id=w2, engine=FakeEngine(num_pages=256, wrap=wrap))
        )
        schedulers, placement = await stack.enter_async_context(running_schedulers(a, b))
        await until(lambda: all("fake" in client.models for client in schedulers.clients))
        requests = [replace(request(str(n), model="fake"), prompt_token_ids=prompt) for n, prompt in enumerate(prompts)]
        opened = [await placement.open_request(each) for each in requests]
        streams = [asyncio.create_task(outcome_of(each)) for each in opened]
        await until(held.is_held.is_set)
        await ending.aclose()
        held.may_go_on.set()
        outcomes = await asyncio.gather(*streams)
        assert [each.token_ids for each in outcomes] == [continuation(prompt, 64) for prompt in prompts]
        # Both schedulers had streams. Those of the ended one moved; the ones that had begun report it.
        assert 0 < sum(len(each.moves) for each in outcomes) <= placement.num_displaced[a] < len(prompts)
        await until(lambda: b_loop.workers.keys() == {w1, w2})
        for worker in b_loop.workers.values():
            worker.pool.check_invariants()
        assert b_loop.num_running == len(b_loop.waiting) == 0


async def test_a_worker_moves_to_a_scheduler_that_has_none_and_its_streams_go_on(short_path: Path) -> None:
    """Both workers start at the first scheduler, as the second is absent. The one that moves leaves its streams to the other."""
    prompts = [tuple(range(number, 40 + number)) for number in range(8)]
    async with AsyncExitStack() as stack:
        a, a_loop = await stack.enter_async_context(scheduler(make_directory(short_path / "a")))
        late = make_directory(short_path / "b")
        addresses = (a, f"unix:{late}/scheduler.sock")
        engines = [HeldEngine(), HeldEngine()]
        for name, engine in zip(("w1", "w2"), engines, strict=True):
            stack.callback(engine.may_go_on.set)
            await stack.enter_async_context(
                attached_worker(*addresses, worker_id=name, engine=engine, spread_interval_s=0.05)
            )
        await until(lambda: a_loop.workers.keys() == {"w1", "w2"})
        schedulers, placement = await stack.enter_async_context(running_schedulers(*addresses))
        await until(lambda: "fake" in schedulers.clients[0].models)
        requests = [replace(request(str(n), model="fake"), prompt_token_ids=prompt) for n, prompt in enumerate(prompts)]
        opened = [await placement.open_request(each) for each in requests]
        streams = [asyncio.create_task(outcome_of(each)) for each in opened]
        await until(lambda: all(engine.is_held.is_set() for engine in engines))
        _, b_loop = await stack.enter_async_context(scheduler(late))
        await until(lambda: any(each.phase is WorkerPhase.LEAVING for each in a_loop.workers.values()))
        for engine in engines:
            engine.may_go_on.set()
        outcomes = await asyncio.gather(*streams)
        assert [each.token_ids for each in outcomes] == [continuation(prompt, 64) for prompt in prompts]
        # Both workers had streams, and those of the leaving one moved.
        assert 0 < sum(len(each.moves) for each in outcomes) < len(prompts)
        await until(lambda: len(a_loop.workers) == len(b_loop.workers) == 1)
        # The worker has kept its cache.
        assert next(iter(b_loop.workers.values())).pool.num_cached > 0


def make_directory(path: Path) -> Path:
    path.mkdir()
    return path
