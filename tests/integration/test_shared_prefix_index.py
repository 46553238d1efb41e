"""Tests of a scheduler with a real Valkey server: what it publishes, what happens when the server fails, and its settings."""

import asyncio
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kvcache.block_hash import hash_blocks, root_hash
from kvcache.prefix_index import Holder
from kvcache.redis_index import RedisPrefixIndex
from pagoda.rpc.cluster_tokens import make_token_file
from pagoda.rpc.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2
from scheduler.settings import SchedulerSettings
from tests.fakes.scheduler_process import instant_worker, scheduler
from tests.fakes.valkey import RealValkey, real_valkey

DIGEST = "0" * 64
PROMPT = list(range(32, 132))
BLOCKS = list(hash_blocks(root_hash(model_digest=DIGEST, page_size=16), PROMPT, 16))


@pytest.fixture
def valkey(short_path: Path) -> Iterator[RealValkey]:
    with real_valkey(short_path) as server:
        yield server


async def ask(stub: "inference_pb2_grpc.InferenceServiceAsyncStub") -> list[int]:
    sampling = types_pb2.SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    request = inference_pb2.GenerateRequest(prompt_token_ids=PROMPT, sampling=sampling)
    return [token async for event in stub.Generate(request) for token in event.tokens.token_ids]


async def lookup_until(index: RedisPrefixIndex, expected: list[int]) -> list[Holder]:
    while True:
        found = await index.lookup(DIGEST, BLOCKS)
        if sorted(found.values()) == expected:
            return list(found)
        await asyncio.sleep(0.02)


async def load_until(
    stub: "inference_pb2_grpc.InferenceServiceAsyncStub", state: "inference_pb2.BreakerState.ValueType"
) -> inference_pb2.PrefixIndexLoad:
    while True:
        load = await stub.GetLoad(inference_pb2.GetLoadRequest())
        if load.prefix_index.breaker_state == state:
            return load.prefix_index
        await asyncio.sleep(0.02)


async def test_gateways_can_see_which_scheduler_and_worker_hold_a_prompt(short_path: Path, valkey: RealValkey) -> None:
    index = RedisPrefixIndex(valkey.url)
    async with scheduler(short_path, prefix_index=valkey.url, advertise="host-1:50051") as (address, _):
        async with instant_worker(address, worker_id="w1"), open_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            await ask(stub)
            [holder] = await lookup_until(index, [6])
            assert (holder.scheduler_id, holder.worker_id) == ("host-1:50051", "w1")
            load = await load_until(stub, inference_pb2.BREAKER_STATE_CLOSED)
            assert load.num_published_blocks >= 6 and load.num_dropped_blocks == 0
        await lookup_until(index, [])
    await index.close()


async def test_a_server_that_dies_and_comes_back_costs_no_answer(short_path: Path, valkey: RealValkey) -> None:
    index = RedisPrefixIndex(valkey.url)
    async with scheduler(short_path, prefix_index=valkey.url) as (address, _):
        async with instant_worker(address), open_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            tokens = await ask(stub)
            await lookup_until(index, [6])
            is_over = asyncio.Event()
            clients = [asyncio.create_task(ask_until(is_over, stub, tokens)) for _ in range(4)]
            valkey.kill()
            await load_until(stub, inference_pb2.BREAKER_STATE_OPEN)
            valkey.start()
            # The index is empty until the scheduler notices and publishes everything again.
            await lookup_until(index, [6])
            await load_until(stub, inference_pb2.BREAKER_STATE_CLOSED)
            is_over.set()
            assert min(await asyncio.gather(*clients)) >= 1
    await index.close()


async def ask_until(
    is_over: asyncio.Event, stub: "inference_pb2_grpc.InferenceServiceAsyncStub", expected: list[int]
) -> int:
    """Ask until the event is set, check each answer, and return their number."""
    num_answers = 0
    while not is_over.is_set():
        assert await ask(stub) == expected
        num_answers += 1
    return num_answers


def test_what_gateways_are_told_to_dial(tmp_path: Path) -> None:
    make_token_file(tmp_path / "tokens")
    open_settings = partial(SchedulerSettings, plaintext=True, cluster_token_file=str(tmp_path / "tokens"))
    assert open_settings(listen="10.0.0.7:50051").advertised_address == "10.0.0.7:50051"
    assert open_settings(listen="0.0.0.0:50051").advertised_address == f"{socket.gethostname()}:50051"
    assert open_settings(listen="0.0.0.0:50051", advertise="a:1").advertised_address == "a:1"
    assert SchedulerSettings(listen="unix:/s.sock").advertised_address == "unix:/s.sock"


def test_a_wrong_index_is_refused_without_its_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        SchedulerSettings.load(["--prefix-index", "http://user:secret@host"])
    said = capsys.readouterr().err
    assert "--prefix-index" in said and "redis://" in said and "secret" not in said
    settings = SchedulerSettings.load(["--prefix-index", "redis://user:secret@host"])
    assert "secret" not in str(settings.described())
