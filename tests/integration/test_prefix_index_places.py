"""Tests of a prefix index behind TLS, in a cluster, and with sentinels that name the current server."""

import asyncio
import ssl
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from kvcache.breaker import BreakerState, CircuitBreaker
from kvcache.index_url import check_index_url, parse_redis_url
from kvcache.prefix_index import Holder, PublishResult
from kvcache.redis_index import RedisPrefixIndex
from tests.contract.test_prefix_index import MODEL, blocks, holder
from tests.e2e.system import free_port
from tests.fakes.certificates import Authority
from tests.fakes.tcp_proxy import tcp_proxy
from tests.fakes.valkey import ValkeyProcess, real_valkey, valkey_process
from tests.fakes.waiting import until

SENTINEL = """
sentinel monitor main 127.0.0.1 {port} 1
sentinel down-after-milliseconds main 100
sentinel failover-timeout main 500
"""


def patient(url: str) -> RedisPrefixIndex:
    """Return an index with long limits, for busy machines, and a circuit breaker with short pauses."""
    breaker = CircuitBreaker(longest_pause_s=0.5)
    return RedisPrefixIndex(url, lookup_limit_s=10.0, write_limit_s=10.0, breaker=breaker)


async def published_until(index: RedisPrefixIndex, wanted: PublishResult) -> None:
    while await index.publish(holder(), blocks(1, 2)) is not wanted:  # noqa: ASYNC110  # another process makes it so
        await asyncio.sleep(0.01)


async def found_until(index: RedisPrefixIndex, wanted: dict[Holder, int]) -> None:
    while await index.lookup(MODEL, blocks(1, 2, 3)) != wanted:  # noqa: ASYNC110  # another process makes it so
        await asyncio.sleep(0.01)


async def test_tls(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority, stranger = Authority(short_path), Authority(short_path, "stranger")
    files = authority.issue("server")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files.certificate, files.key)
    with real_valkey(short_path) as valkey:
        async with tcp_proxy(valkey.url, tls) as proxy:
            index = patient(f"rediss://{proxy.address}/0?ssl_ca_certs={authority.path}")
            assert await index.publish(holder(), blocks(1)) is PublishResult.NEW
            assert await index.lookup(MODEL, blocks(1)) == {holder(): 1}
            await index.close()
            misled = patient(f"rediss://{proxy.address}/0?ssl_ca_certs={stranger.path}")
            while misled.breaker_state is not BreakerState.OPEN:
                assert await misled.lookup(MODEL, blocks(1)) == {}
            assert "certificate verify failed" in caplog.records[-1].__dict__["details"]
            await misled.close()


async def test_a_cluster_whose_slots_move(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first, second = (stack.enter_context(cluster_node(tmp_path / name)) for name in ("first", "second"))
        first.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        first.ask("CLUSTER", "MEET", "127.0.0.1", second.port, second.bus_port)
        await until(lambda: all(node.ask("CLUSTER INFO")["cluster_state"] == "ok" for node in (first, second)))

        index = patient(f"redis+cluster://127.0.0.1:{second.port}")
        many = blocks(*range(1, 600))
        await index.publish(holder(), many)
        assert await index.lookup(MODEL, many) == {holder(): len(many)}
        assert (first.admin.dbsize(), second.admin.dbsize()) == (600, 0)

        move_everything(first, second)
        await published_until(index, PublishResult.KNOWN)
        assert await index.lookup(MODEL, many) == {holder(): 2}
        assert (first.admin.dbsize(), second.admin.dbsize()) == (0, 3)
        await index.close()

        hasty = RedisPrefixIndex(f"redis+cluster://127.0.0.1:{second.port}")
        await found_until(hasty, {holder(): 2})
        with second.frozen():
            while hasty.breaker_state is not BreakerState.OPEN:
                assert await hasty.lookup(MODEL, many) == {}
        await found_until(hasty, {holder(): 2})
        await hasty.close()


def cluster_node(directory: Path) -> AbstractContextManager[ValkeyProcess]:
    flags = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-port", str(free_port()))
    return valkey_process(directory, *flags)


def move_everything(source: ValkeyProcess, target: ValkeyProcess) -> None:
    """Move the slot without its data: a hint may be lost."""
    [slot] = {source.ask("CLUSTER", "KEYSLOT", key) for key in source.ask("KEYS", "*")}
    source.admin.flushall()
    owner = target.ask("CLUSTER", "MYID")
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", owner)


async def test_sentinels_name_another_server_when_one_is_lost(tmp_path: Path) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(valkey_process(tmp_path / "primary", "--repl-diskless-sync-delay", "0"))
        following = ("--replicaof", "127.0.0.1", str(primary.port))
        replica = stack.enter_context(valkey_process(tmp_path / "replica", *following))
        await until(lambda: replica.admin.info("replication")["master_link_status"] == "up")
        file = tmp_path / "sentinel.conf"
        file.write_text(SENTINEL.format(port=primary.port))
        sentinel = stack.enter_context(valkey_process(tmp_path / "sentinel", str(file), "--sentinel"))
        await until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "main"))

        index = patient(f"redis+sentinel://127.0.0.1:{sentinel.port}/main")
        await index.publish(holder(), blocks(1, 2))
        await until(lambda: replica.admin.dbsize() == 3)
        primary.kill()
        await published_until(index, PublishResult.KNOWN)
        assert await index.lookup(MODEL, blocks(1, 2)) == {holder(): 2}
        assert replica.admin.info("replication")["role"] == "master"
        await index.close()


@pytest.mark.parametrize(
    ("url", "server", "hosts", "service"),
    [
        ("rediss://u:p@a:1/2?x=y", "rediss://u:p@a:1/2?x=y", (), ""),
        ("redis+cluster://a:1,b", "redis://a:1", (("a", 1), ("b", 6379)), ""),
        ("rediss+cluster://u:p@[::1]:1?x=y", "rediss://u:p@[::1]:1?x=y", (("::1", 1),), ""),
        ("redis+sentinel://a,b:2/main", "redis://a", (("a", 26379), ("b", 2)), "main"),
        ("redis+sentinel://:p@a/main/3", "redis://:p@a/3", (("a", 26379),), "main"),
    ],
)
def test_what_a_url_says(url: str, server: str, hosts: tuple[tuple[str, int], ...], service: str) -> None:
    place = parse_redis_url(url)
    assert (place.server, place.hosts, place.service) == (server, hosts, service)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://u:secret@a", "redis\\+sentinel://"),
        ("redis+other://u:secret@a", "redis\\+sentinel://"),
        ("redis+sentinel://u:secret@a", "SERVICE"),
        ("redis+sentinel://u:secret@a/b/c/d", "SERVICE"),
        ("redis+cluster://u:secret@a/1", "one database"),
        ("redis+cluster://u:secret@a:x", "HOST:PORT"),
        ("redis+cluster://u:secret@a,", "HOST:PORT"),
    ],
)
def test_a_url_that_says_nothing_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        check_index_url(url)
    assert "secret" not in str(refused.value)
