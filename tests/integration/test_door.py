"""Tests of access to the scheduler over real gRPC: with tokens, certificates and API keys, and what both sides log."""

import asyncio
import logging
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from gateway.settings import GatewaySettings
from gateway.upstream.scheduler_client import SchedulerClient
from pagoda.api_keys.key_file import KeyEntry, KeyFile, Scope, digest_of
from pagoda.rpc.cluster_tokens import ClusterTokens, Role, make_token_file, new_token
from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.transport_security import TransportSecurity
from pagoda.wire.inference_request import InferenceRequest
from protos.v1 import inference_pb2, inference_pb2_grpc, types_pb2, worker_pb2_grpc
from scheduler.__main__ import running_scheduler
from scheduler.loop import SchedulerLoop
from scheduler.queue.events import Client
from scheduler.settings import SchedulerSettings
from tests.e2e.system import free_port
from tests.fakes.certificates import Authority
from tests.fakes.log_records import own_records
from tests.fakes.waiting import until
from tests.fakes.worker import fake_worker_link
from worker.settings import WorkerSettings

OPEN, UNAUTHENTICATED, DENIED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
Metadata = tuple[tuple[str, str], ...]


def greedy(**fields: Any) -> inference_pb2.GenerateRequest:
    sampling = types_pb2.SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
    return inference_pb2.GenerateRequest(prompt_token_ids=[1, 2, 3], sampling=sampling, **fields)


@asynccontextmanager
async def door(home: Path, **settings: Any) -> AsyncIterator[tuple[str, SchedulerLoop]]:
    address = f"127.0.0.1:{free_port()}"
    async with running_scheduler(SchedulerSettings(listen=address, home=home, **settings)) as loop:
        yield address, loop


@asynccontextmanager
async def attaching(address: str, security: TransportSecurity) -> AsyncIterator[None]:
    task = asyncio.create_task(fake_worker_link(address, worker_id="w1", security=security).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def statuses(channel: grpc.aio.Channel, metadata: Metadata = ()) -> dict[str, grpc.StatusCode]:
    """Return each method's status: OPEN if access was granted, whatever the call's own status is."""
    inference = inference_pb2_grpc.InferenceServiceStub(channel)
    attach: Any = worker_pb2_grpc.WorkerServiceStub(channel).Attach
    reflect: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    missing: Any = channel.unary_unary("/no.Such/Method")
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "Attach": lambda: _ended(attach(metadata=metadata, timeout=10)),
        "Session": lambda: _ended(inference.Session(metadata=metadata, timeout=10)),
        "Generate": lambda: aiter(inference.Generate(greedy(), metadata=metadata, timeout=10)).__anext__(),
        "ListModels": lambda: inference.ListModels(inference_pb2.ListModelsRequest(), metadata=metadata, timeout=10),
        "KeepLoaded": lambda: inference.KeepLoaded(
            inference_pb2.KeepLoadedRequest(model="fake"), metadata=metadata, timeout=10
        ),
        "GetLoad": lambda: inference.GetLoad(inference_pb2.GetLoadRequest(), metadata=metadata, timeout=10),
        "Reflection": lambda: _ended(reflect(metadata=metadata, timeout=10)),
        "Missing": lambda: missing(b"", metadata=metadata, timeout=10),
    }
    return {name: await _status(call) for name, call in calls.items()}


async def _ended(stream: Any) -> None:
    await stream.done_writing()
    await stream.read()


async def _status(call: Callable[[], Awaitable[Any]]) -> grpc.StatusCode:
    try:
        await call()
    except grpc.aio.AioRpcError as error:
        return error.code() if error.code() in (UNAUTHENTICATED, DENIED) else OPEN
    return OPEN


def let_in(found: dict[str, grpc.StatusCode]) -> set[str]:
    return {name for name, status in found.items() if status is OPEN}


GATEWAYS = {"Session", "Generate", "ListModels", "KeepLoaded", "GetLoad", "Reflection"}
WORKERS = {"Attach", "GetLoad", "Reflection"}
CLIENTS = GATEWAYS - {"Session"}
FOR_ROLE = {"gateway": GATEWAYS, "worker": WORKERS, "client": CLIENTS}
# A method that does not exist is reported as such to every client, without a check.
MISSING = {"Missing"}


async def test_over_tcp_nobody_comes_in_without_a_token_and_probes_do(tmp_path: Path) -> None:
    """Calls without a token are refused, also on loopback, where any process could connect; health checks are not."""
    async with door(tmp_path) as (address, _), open_channel(address) as channel:
        assert let_in(await statuses(channel)) == MISSING
        assert let_in(await statuses(channel, (("authorization", f"Bearer {new_token()}"),))) == MISSING
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert stat.S_IMODE((tmp_path / "cluster-token").stat().st_mode) == 0o600


async def test_each_role_has_its_token(tmp_path: Path) -> None:
    tokens = {role: new_token(role) for role in Role}
    (tmp_path / "tokens").write_text("\n".join(tokens.values()))
    async with door(tmp_path, cluster_token_file=str(tmp_path / "tokens")) as (address, _):
        for role, token in tokens.items():
            security = TransportSecurity(tokens=ClusterTokens(text=token), role=role)
            async with open_channel(address, security) as channel:
                assert let_in(await statuses(channel)) == FOR_ROLE[role] | MISSING
        # With a token file, the scheduler does not accept the home's token.
        make_token_file(tmp_path / "cluster-token")
        async with open_channel(address, WorkerSettings(home=tmp_path).security) as channel:
            assert let_in(await statuses(channel)) == MISSING


async def test_each_certificate_has_its_role(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = authority.issue("scheduler-0.scheduler")
    shown = {"tls_cert": server.certificate, "tls_key": server.key, "tls_ca": authority.path}
    async with AsyncExitStack() as stack:
        address, _ = await stack.enter_async_context(door(tmp_path, **shown))
        mapped, _ = await stack.enter_async_context(door(tmp_path, tls_roles="worker=*.compute.example", **shown))
        for name, expected, expected_mapped in (
            ("gateway", GATEWAYS, set()),
            ("worker", WORKERS, set()),
            ("client", CLIENTS, set()),
            ("scheduler", set(), set()),
            ("n1.compute.example", set(), WORKERS),
        ):
            files = authority.issue("nameless", hosts=[name, f"spiffe://cluster/ns/pagoda/sa/{name}"])
            security = TransportSecurity(certificate=files.certificate, key=files.key, authority=authority.path)
            for asked, opened in ((address, expected), (mapped, expected_mapped)):
                async with open_channel(asked, security) as channel:
                    assert let_in(await statuses(channel)) == opened | MISSING, (name, asked)
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def test_tiers_of_one_home_find_their_token(tmp_path: Path) -> None:
    async with door(tmp_path) as (address, loop):
        async with attaching(address, WorkerSettings(home=tmp_path, scheduler=address).security):
            await until(lambda: bool(loop.workers))
            gateway = GatewaySettings(home=tmp_path, scheduler=address).security
            async with open_channel(address, gateway) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                listed = await stub.ListModels(inference_pb2.ListModelsRequest())
    assert [model.name for model in listed.models] == ["fake"]


async def test_a_worker_with_a_wrong_token_says_so_and_comes_when_it_is_right(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, known = tmp_path / "worker.token", tmp_path / "known.token"
    make_token_file(own, Role.WORKER)
    make_token_file(known, Role.WORKER)
    with caplog.at_level(logging.INFO):
        async with door(tmp_path, cluster_token_file=str(known)) as (address, loop):
            security = WorkerSettings(scheduler=address, cluster_token_file=str(own)).security
            async with attaching(address, security):
                await until(lambda: "cannot attach to scheduler; retrying" in caplog.messages)
                assert not loop.workers
                # As in a rotation, the scheduler's file gets the new token beside the old one.
                known.write_text(known.read_text() + own.read_text())
                await until(lambda: bool(loop.workers))
    said = {record.message: record for record in caplog.records}
    refused, trying = said["call refused"].__dict__, said["cannot attach to scheduler; retrying"].__dict__
    assert (
        refused["code"] == "UNAUTHENTICATED"
        and refused["method"].endswith("/Attach")
        and "127.0.0.1" in refused["peer"]
    )
    assert trying["reason"] == refused["reason"] and "--cluster-token-file" in trying["reason"]
    assert not any(word in caplog.text for word in own.read_text().split())


async def test_a_gateway_with_a_wrong_token_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Listening:
        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *arguments: None

    token = new_token(Role.GATEWAY)
    security = TransportSecurity(tokens=ClusterTokens(text=token), role=Role.GATEWAY)
    async with door(tmp_path) as (address, _):
        client = SchedulerClient(address, silence_s=60, security=security)
        await client.start(Listening())
        await until(lambda: "refuses this gateway" in (client.problem or ""))
        await client.close()
    said = [record.__dict__["reason"] for record in caplog.records if "refuses this gateway" in record.message]
    assert len(said) == 1 and "cluster token" in said[0] and token not in caplog.text


def add_keys(home: Path) -> None:
    for name, scopes, isolated in (("user", (Scope.INFERENCE,), True), ("operator", (Scope.ADMIN,), False)):
        KeyFile(home / "keys.json").add(
            KeyEntry(
                name=name,
                sha256=digest_of(f"key of {name}".encode()),
                tenant=f"tenant-of-{name}",
                scopes=scopes,
                isolated=isolated,
                created_at=datetime.now(UTC),
            )
        )


@pytest.mark.parametrize("transport", ["unix", "tcp"])
async def test_where_there_are_keys_the_public_methods_want_one_and_say_whose_request_it_is(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"unix:{tmp_path}/s.sock" if transport == "unix" else f"127.0.0.1:{free_port()}"
    settings = SchedulerSettings(listen=address, home=tmp_path)
    user: Metadata = (("authorization", "Bearer key of user"),)
    operator: Metadata = (("x-api-key", "key of operator"),)
    async with running_scheduler(settings) as loop:
        security = WorkerSettings(home=tmp_path, scheduler=address).security
        async with attaching(address, security), open_channel(address) as channel:
            await until(lambda: bool(loop.workers))
            opened = let_in(await statuses(channel))
            assert opened == MISSING | (GATEWAYS | WORKERS if transport == "unix" else set())
            # As with HTTP, access needs a key as soon as one exists.
            add_keys(tmp_path)
            assert let_in(await statuses(channel)) == MISSING
            assert let_in(await statuses(channel, user)) == MISSING | {"Generate", "ListModels", "Reflection"}
            assert let_in(await statuses(channel, operator)) == MISSING | {"KeepLoaded", "GetLoad"}
            submitted: list[InferenceRequest] = []
            submit = loop.requests.submit_request

            def recorded(request: InferenceRequest, client: Client) -> None:
                submitted.append(request)
                submit(request, client)

            monkeypatch.setattr(loop.requests, "submit_request", recorded)
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            claimed = greedy(tenant="tenant-of-operator", cache_salt="x")
            assert [event async for event in stub.Generate(claimed, metadata=user)]
            with pytest.raises(grpc.aio.AioRpcError, match="scope 'priority'") as refused:
                assert [event async for event in stub.Generate(greedy(priority=-1), metadata=user)]
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            # The gateway has checked the key itself, so its tenant is accepted.
            async with open_channel(address, GatewaySettings(home=tmp_path, scheduler=address).security) as trusted:
                stub = inference_pb2_grpc.InferenceServiceStub(trusted)
                assert [event async for event in stub.Generate(claimed)]
    told = [(request.tenant, request.cache_salt, request.keep_alive_only_prolongs) for request in submitted]
    assert told == [("tenant-of-user", "tenant tenant-of-user/x", True), ("tenant-of-operator", "x", False)]


async def test_a_refused_call_is_not_read_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A call is refused before its message is read; otherwise anyone could fill the scheduler's memory."""
    async with door(tmp_path) as (address, _), open_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        too_large = greedy()
        too_large.prompt_token_ids.extend(range(10_000_000))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await aiter(stub.Generate(too_large, timeout=60)).__anext__()
        # If the message was read first, the status would be RESOURCE_EXHAUSTED.
        assert refused.value.code() is UNAUTHENTICATED
        stream: Any = worker_pb2_grpc.WorkerServiceStub(channel).Attach(timeout=60)
        assert await stream.code() is UNAUTHENTICATED, "although nothing was sent yet"
    assert not any(record.exc_info for record in own_records(caplog))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--listen", "0.0.0.0:1", "--plaintext"], "without cluster tokens"),
        (["--listen", "0.0.0.0:1"], "in clear text"),
        (["--listen", "127.0.0.1:1", "--cluster-token-file", "none"], "cannot read the cluster token file none"),
        (["--listen", "127.0.0.1:1", "--home", "/proc/none"], "cannot write the cluster token"),
        (["--keys-file", "none.json"], "pagoda key create"),
        (["--tls-roles", "worker"], "must be ROLE=NAME"),
    ],
)
def test_a_scheduler_that_cannot_lock_its_door_does_not_start(flags: list[str], words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "scheduler", *flags]
    environment = {**os.environ, "PAGODA_HOME": str(tmp_path)}
    refused = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert refused.returncode in (1, 2) and words in refused.stderr and "Traceback" not in refused.stderr
