"""The connection to one Redis or Valkey, or to where sentinels or a cluster say that the keys are at the moment.

Knows nothing about what is kept there. Retries nothing: its caller decides when to try again.
"""

import asyncio
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from kvcache.index_url import RedisURL, Topology, parse_redis_url

CONNECTION_ERRORS = (RedisError, RedisClusterException, OSError, TimeoutError)

_SENTINEL_OPTIONS = ("username", "password")


class RedisClient:
    """Connects when first used, and again when it has to. Belongs to one event loop."""

    def __init__(self, url: str, *, connect_limit_s: float) -> None:
        self._place = place = parse_redis_url(url)
        self._connect_limit_s = connect_limit_s
        self._sentinels: list[Redis] = []
        self._cluster: RedisCluster | None = None
        self._asking: asyncio.Task[None] | None = None
        """For the cluster's map."""
        self._leaving: set[asyncio.Task[None]] = set()
        """Clients of which only the connections are still closing."""
        match place.topology:
            case Topology.SERVER:
                self._redis: Redis | RedisCluster = Redis.from_url(place.server, retry=_no_retries())
            case Topology.SENTINEL:
                sentinel = _open_sentinel(place)
                self._sentinels = sentinel.sentinels
                self._redis = sentinel.master_for(place.service, retry=_no_retries())
            case Topology.CLUSTER:
                self._redis = self._cluster = _open_cluster(place)

    async def execute(self, key: bytes, *commands: tuple[bytes | str | int, ...]) -> list[Any]:
        """The answers in order, in one round trip: all keys must be on the slot of `key`. Raises CONNECTION_ERRORS."""
        options = {} if self._cluster is None else {"target_nodes": await self._node(self._cluster, key)}
        async with self._redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command, **options)
            return list(await pipeline.execute())

    def forget(self) -> None:
        """After failures: a cluster's keys may be elsewhere by now, so that is asked again."""
        if self._cluster is not None and self._asking is not None and self._asking.done():
            # A server that is frozen may hold up the closing.
            leaving = asyncio.create_task(self._cluster.aclose())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
            self._redis = self._cluster = _open_cluster(self._place)
            self._asking = None

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for client in (self._redis, *self._sentinels):
            await client.aclose()

    async def _node(self, cluster: RedisCluster, key: bytes) -> ClusterNode | None:
        """Asking for the map takes longer than some callers may wait: it goes on for the next one when they have given up."""
        if self._asking is None or (self._asking.done() and self._asking.exception() is not None):
            self._asking = asyncio.create_task(self._ask(cluster))
        await asyncio.shield(self._asking)
        # Told where, the client does not look for the slot of each of thousands of keys.
        return cluster.get_node_from_key(key.decode())

    async def _ask(self, cluster: RedisCluster) -> None:
        async with asyncio.timeout(self._connect_limit_s):
            await cluster.initialize()


def _open_sentinel(place: RedisURL) -> Sentinel:
    options = _options(place.server)
    # What is said of the servers holds for sentinels too, but for who asks: that is their own affair.
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
    # A slot without a server is a model without hits, not the end of all others.
    return RedisCluster(startup_nodes=nodes, require_full_coverage=False, retry=_no_retries(), **options)


def _options(server: str) -> dict[str, Any]:
    """All of the URL but where the server is."""
    options: dict[str, Any] = dict(parse_url(server))
    options = {name: value for name, value in options.items() if name not in ("host", "port")}
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    return options


def _no_retries() -> Retry:
    return Retry(NoBackoff(), 0)
