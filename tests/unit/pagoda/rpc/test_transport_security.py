"""TLS between the tiers: which certificates are accepted, what is logged on failure, and which settings are refused."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from pagoda.healthcheck import main as check_health
from pagoda.rpc.cluster_tokens import new_token
from pagoda.rpc.grpc_channel import LastingChannel, open_channel
from pagoda.rpc.grpc_server import GrpcServer
from pagoda.rpc.sockets import is_local
from pagoda.rpc.transport_security import InsecureAddressError, TransportSecurity
from pagoda.settings import TierSettings
from scheduler.settings import SchedulerSettings
from tests.fakes.certificates import Authority, CertificateFiles
from worker.settings import WorkerSettings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def shown(files: CertificateFiles, authority: Authority | None = None) -> TransportSecurity:
    return TransportSecurity(
        certificate=files.certificate, key=files.key, authority=authority.path if authority else None
    )


def believing(authority: Authority) -> TransportSecurity:
    return TransportSecurity(authority=authority.path)


def certificates_of(settings: TierSettings) -> TransportSecurity:
    return replace(settings.security, home_tokens=None, role=None)


@asynccontextmanager
async def served(security: TransportSecurity) -> AsyncIterator[str]:
    server = GrpcServer("127.0.0.1:0", security)
    await server.start([])
    try:
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop(0)


async def check(address: str, security: TransportSecurity) -> None:
    async with open_channel(address, security) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())


async def failure(address: str, security: TransportSecurity) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await check(address, security)
    return security.explain(address, failed.value.details() or "")


async def test_each_end_believes_whom_its_authority_has_signed(authority: Authority) -> None:
    server, client = authority.issue("server"), authority.issue("client")
    async with served(shown(server)) as address:
        await check(address, believing(authority))
    async with served(shown(server, authority)) as address:
        await check(address, shown(client, authority))


async def test_why_a_connection_failed_is_a_sentence(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    server = authority.issue("server")
    async with served(shown(server)) as address:
        assert "not signed by the authority in --tls-ca" in await failure(address, believing(stranger))
        assert "if it uses TLS, set --tls-ca" in await failure(address, TransportSecurity())
    async with served(shown(authority.issue("late", valid_days=-1))) as address:
        assert "certificate has expired; renew it" in await failure(address, believing(authority))
    async with served(shown(authority.issue("elsewhere", hosts=["scheduler"]))) as address:
        assert "--tls-server-name" in await failure(address, believing(authority))
        await check(address, TransportSecurity(authority=authority.path, server_name="scheduler"))
    async with served(TransportSecurity()) as address:
        assert "the server does not use TLS" in await failure(address, believing(authority))
    async with served(shown(server, authority)) as address:
        for asking in (believing(authority), shown(stranger.issue("client"), authority)):
            assert "if it requires certificates, set --tls-cert" in await failure(address, asking)
    assert "Connection refused" in await failure(address, believing(authority))


async def test_whoever_waits_for_a_connection_says_once_why(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    security = believing(Authority(tmp_path, "stranger"))
    async with served(shown(authority.issue("server"))) as address:
        channel = LastingChannel(address, security, patience_s=0.05)
        waiting = asyncio.create_task(channel.until_ready())
        while not caplog.records:  # noqa: ASYNC110  # the log has no event
            await asyncio.sleep(0.01)
        waiting.cancel()
        await channel.close()
    [record] = [record for record in caplog.records if record.name == "pagoda.rpc.grpc_channel"]
    assert "not signed by" in record.__dict__["reason"] and record.__dict__["address"] == address


async def test_a_renewed_certificate_needs_no_restart(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    files = authority.issue("server", valid_days=-1)
    async with served(shown(files)) as address:
        assert "has expired" in await failure(address, believing(authority))
        files.replace_with(authority.issue("renewed"))
        await check(address, believing(authority))
        files.key.unlink()
        with caplog.at_level(logging.WARNING, logger="pagoda.rpc.transport_security"):
            await check(address, believing(authority))
    assert "the old one stays in use" in caplog.text


async def test_whoever_waits_with_an_expired_certificate_shows_the_renewed_one(authority: Authority) -> None:
    files = authority.issue("client", valid_days=-1)
    security = shown(files, authority)
    async with served(shown(authority.issue("server"), authority)) as address:
        await failure(address, security)
        channel = LastingChannel(address, security, patience_s=0.05)
        waiting = asyncio.create_task(channel.until_ready())
        files.replace_with(authority.issue("renewed"))
        await waiting
        await channel.close()


async def test_a_scheduler_s_health_check_finds_its_certificates(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = authority.issue("server", hosts=["scheduler"])
    monkeypatch.setenv("PAGODA_TLS_CERT", str(files.certificate))
    monkeypatch.setenv("PAGODA_SCHEDULER_TLS_KEY", str(files.key))
    async with served(shown(files)) as address:
        assert await asyncio.to_thread(check_health, [address]) == 1
        assert "--tls-server-name" in capsys.readouterr().err
        monkeypatch.setenv("PAGODA_TLS_SERVER_NAME", "scheduler")
        assert await asyncio.to_thread(check_health, [address]) == 0
    monkeypatch.setenv("PAGODA_TLS_CA", str(authority.path))
    async with served(shown(files, authority)) as address:
        assert await asyncio.to_thread(check_health, [address]) == 0


@pytest.mark.parametrize("address", ["unix:/s.sock", "127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_local_addresses(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "scheduler:1", "localhost.example:1"])
def test_nobody_speaks_clear_text_beyond_this_machine_unless_told_to(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_local(address)
    with pytest.raises(InsecureAddressError, match="--plaintext"):
        open_channel(address)
    with pytest.raises(ValueError, match=r"refusing to listen .* --tls-cert and --tls-key"):
        SchedulerSettings(listen=address)
    with pytest.raises(ValueError, match=r"refusing to connect .* --tls-ca"):
        WorkerSettings(scheduler=f"127.0.0.1:1,{address}")
    with pytest.raises(ValueError, match=r"refusing to connect .* --tls-ca"):
        GatewaySettings(scheduler=address)
    monkeypatch.setenv("PAGODA_CLUSTER_TOKEN", new_token())
    assert SchedulerSettings(listen=address, plaintext=True).security.server_credentials(address) is None
    assert WorkerSettings(scheduler=address, plaintext=True).security.channel_files(address) is None


def test_one_set_of_variables_is_for_all_tiers(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    files = authority.issue("any")
    for name, path in {"CERT": files.certificate, "KEY": files.key, "CA": authority.path}.items():
        monkeypatch.setenv(f"PAGODA_TLS_{name}", str(path))
    address = "10.0.0.7:50051"
    for settings in (
        SchedulerSettings(listen=address),
        WorkerSettings(scheduler=address),
        GatewaySettings(scheduler=address),
    ):
        assert certificates_of(settings) == shown(files, authority)
    own = authority.issue("own")
    monkeypatch.setenv("PAGODA_WORKER_TLS_CERT", str(own.certificate))
    monkeypatch.setenv("PAGODA_WORKER_TLS_KEY", str(own.key))
    assert certificates_of(WorkerSettings()) == shown(own, authority)


@pytest.mark.parametrize(
    ("tier", "flags", "words"),
    [
        (SchedulerSettings, "--tls-cert none --tls-key server.key", "--tls-cert (or PAGODA_SCHEDULER_TLS_CERT): cannot read"),
        (WorkerSettings, "--tls-ca server.key", "--tls-ca (or PAGODA_WORKER_TLS_CA): server.key has no certificate"),
        (SchedulerSettings, "--tls-cert server.crt", "--tls-cert and --tls-key must be set together"),
        (SchedulerSettings, "--tls-cert server.crt --tls-key other.key", "other.key is not the key of server.crt"),
        (SchedulerSettings, "--tls-cert server.key --tls-key server.key", "server.key must be a certificate"),
        (SchedulerSettings, "--tls-ca authority.crt", "set --tls-cert and --tls-key too"),
        (GatewaySettings, "--tls-cert server.crt --tls-key server.key", "--tls-cert requires --tls-ca"),
        (GatewaySettings, "--tls-ca authority.crt --plaintext", "cannot be combined"),
    ],
)  # fmt: skip
def test_files_and_flags_that_do_not_fit_are_a_sentence(
    tier: type[TierSettings],
    flags: str,
    words: str,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    authority.issue("server")
    authority.issue("other")
    monkeypatch.chdir(authority.path.parent)
    with pytest.raises(SystemExit):
        tier.load(flags.split())
    assert words in capsys.readouterr().err


def test_a_misspelt_shared_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAGODA_TLS_CRT", "x")
    with pytest.raises(SystemExit):
        WorkerSettings.load([])
    assert "unknown environment variable PAGODA_TLS_CRT" in capsys.readouterr().err
