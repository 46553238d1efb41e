"""Start, health, reflection and stop of the gRPC server, over a real unix socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.grpc_server import GrpcServer
from pagoda.rpc.sockets import MAX_SOCKET_PATH_BYTES, SocketInUseError, claim_socket, scheduler_address, unix_path

SERVICE = "protos.v1.InferenceService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def address(tmp_path: Path) -> str:
    return scheduler_address(tmp_path)


@pytest.fixture
async def server(address: str) -> AsyncIterator[GrpcServer]:
    server = GrpcServer(address)
    await server.start([SERVICE])
    yield server
    await server.stop(0)


async def test_check_tells_live_from_ready(server: GrpcServer) -> None:
    async with open_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        live = await health.Check(health_pb2.HealthCheckRequest())
        ready = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (live.status, ready.status) == (SERVING, NOT_SERVING)
        await server.set_serving(SERVICE, True)
        ready = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert ready.status == SERVING


async def test_watch_pushes_each_change(server: GrpcServer) -> None:
    async with open_channel(server.address) as channel, asyncio.timeout(200):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        for serving in (True, False):
            await server.set_serving(SERVICE, serving)
            seen.append((await watch.read()).status)
        watch.cancel()
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_reflection_lists_the_services(server: GrpcServer) -> None:
    async with open_channel(server.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        response = await call.read()
    assert {SERVICE, "grpc.health.v1.Health"} <= {service.name for service in response.list_services_response.service}


async def test_stop_removes_the_socket(address: str) -> None:
    server = GrpcServer(address)
    await server.start([SERVICE])
    path = unix_path(address)
    assert path is not None and path.is_socket()
    await server.stop(0)
    assert not path.exists()


async def test_a_dead_process_s_socket_is_replaced(address: str) -> None:
    path = unix_path(address)
    assert path is not None
    claim_socket(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = GrpcServer(address)
    await server.start([SERVICE])
    await server.stop(0)


async def test_a_living_process_s_socket_is_left_alone(server: GrpcServer) -> None:
    with pytest.raises(SocketInUseError, match="another process listens"):
        await GrpcServer(server.address).start([SERVICE])


async def test_a_taken_port_is_an_error() -> None:
    first = GrpcServer("127.0.0.1:0")
    await first.start([SERVICE])
    with pytest.raises(SocketInUseError, match="cannot listen"):
        await GrpcServer(f"127.0.0.1:{first.port}").start([SERVICE])
    await first.stop(0)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(SocketInUseError, match="not a socket"):
        claim_socket(file)
    assert file.read_text() == "mine"


def test_a_long_home_gets_a_short_socket(tmp_path: Path) -> None:
    home = tmp_path / ("deep" * 30)
    address = scheduler_address(home, "8000")
    assert len(address.removeprefix("unix:").encode()) <= MAX_SOCKET_PATH_BYTES
    assert address == scheduler_address(home, "8000") != scheduler_address(home, "8001")
    assert unix_path("127.0.0.1:50051") is None
    assert unix_path("unix:///tmp/a.sock") == Path("/tmp/a.sock")
