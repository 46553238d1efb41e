"""The client of one Redis or Valkey server, or of the present servers behind sentinels or a cluster.

It does not retry; its caller decides when to try again.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from kvcache.index_url import RedisURL, Topology, parse_redis_url

logger = logging.getLogger(__name__)

CONNECTION_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)

Answer = TypeVar("Answer")

_SENTINEL_OPTIONS = ("username", "password")


class RedisClient:
    """A client that connects at first use, and again after a failure. It belongs to one event loop."""

    def __init__(self, url: str, *, give_up_s: float) -> None:
        """Create a client. It aborts every operation after `give_up_s`, even if its caller stopped waiting earlier."""
        self._place = place = parse_redis_url(url)
        self._give_up_s = give_up_s
        self._sentinels: list[Redis] = []
        self._cluster: RedisCluster | None = None
        self._running: set[asyncio.Task[Any]] = set()
        """Running operations, including those whose caller stopped waiting."""
        self._leaving: set[asyncio.Task[Any]] = set()
        """Tasks that close the connections of replaced clients."""
        match place.topology:
            case Topology.SERVER:
                self._redis: Redis | RedisCluster = Redis.from_url(place.server, retry=_no_retries())
            case Topology.SENTINEL:
                sentinel = _open_sentinel(place)
                self._sentinels = sentinel.sentinels
                self._redis = sentinel.master_for(place.service, retry=_no_retries())
            case Topology.CLUSTER:
                self._redis = self._cluster = _open_cluster(place)

    async def execute(self, key: bytes, *commands: tuple[bytes | str | int, ...], within_s: float) -> list[Any]:
        """Run commands in one round trip and return their answers in order. All keys must be on the slot of `key`.

        Raises CONNECTION_ERRORS, and TimeoutError after `within_s`. The operation continues after a timeout, because a connection
        may take longer than the caller may wait, and would take as long again for the next caller.
        """
        running = _start(self._execute(key, commands), self._running)
        done, _ = await asyncio.wait({running}, timeout=within_s)
        if not done:
            raise TimeoutError
        return running.result()

    async def close(self) -> None:
        for running in self._running:
            running.cancel()
        if open_tasks := [*self._running, *self._leaving]:
            await asyncio.wait(open_tasks)
        for client in (self._redis, *self._sentinels):
            await client.aclose()

    async def _execute(self, key: bytes, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Any]:
        cluster = self._cluster
        try:
            async with asyncio.timeout(self._give_up_s):
                return await self._send(key, commands)
        except ResponseError:
            raise
        except CONNECTION_ERRORS:
            self._forget(cluster)
            raise

    async def _send(self, key: bytes, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Any]:
        # With target_nodes, the cluster client does not compute the slots of thousands of keys.
        options = {} if self._cluster is None else {"target_nodes": await _node(self._cluster, key)}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command, **options)
            return list(await pipeline.execute())

    def _forget(self, cluster: RedisCluster | None) -> None:
        """Replace the client of a cluster after a failure, since the keys may have moved to other nodes."""
        if cluster is not None and cluster is self._cluster:
            # Closing runs in the background, because a frozen server may delay it.
            _start(cluster.aclose(), self._leaving)
            self._redis = self._cluster = _open_cluster(self._place)


def _start(operation: Coroutine[Any, Any, Answer], running: set[asyncio.Task[Any]]) -> asyncio.Task[Answer]:
    """Start a task and keep it in `running` until it has ended."""
    task = asyncio.create_task(operation)
    running.add(task)
    task.add_done_callback(running.discard)
    task.add_done_callback(_look_at)
    return task


def _look_at(ended: asyncio.Task[Any]) -> None:
    """Log an unexpected error of a task. Connection errors are part of an outage, which the index reports."""
    if not ended.cancelled() and (error := ended.exception()) is not None and not isinstance(error, CONNECTION_ERRORS):
        logger.error("task of the prefix index failed", exc_info=error)


async def _node(cluster: RedisCluster, key: bytes) -> ClusterNode | None:
    await cluster.initialize()
    return cluster.get_node_from_key(key.decode())


def _open_sentinel(place: RedisURL) -> Sentinel:
    options = _options(place.server)
    # Sentinels use the servers' TLS options, but have credentials of their own.
    own = {name: value for name, value in options.items() if name.startswith("ssl")}
    for name in _SENTINEL_OPTIONS:
        if (value := options.pop(f"sentinel_{name}", None)) is not None:
            own[name] = value
    return Sentinel(  # type: ignore[no-untyped-call]
        list(place.hosts), sentinel_kwargs={**own, "retry": _no_retries()}, **options
    )


def _open_cluster(place: RedisURL) -> RedisCluster:
    options = _options(place.server)
    nodes = [ClusterNode(host, port) for host, port in place.hosts]
    # Without full coverage, a slot without a server costs the hits of one model, and the other models still work.
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, retry=_no_retries(), **options)


def _options(server: str) -> dict[str, Any]:
    """Return the client's options in a URL: everything but host and port."""
    options: dict[str, Any] = dict(parse_url(server))
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def _no_retries() -> Retry:
    return Retry(NoBackoff(), 0)
