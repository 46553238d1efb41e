"""The parser of prefix index URLs. It works without the Redis client, which is slow to import."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

MEMORY = "memory"
URL_FORMS = (
    "redis://HOST:PORT, rediss://HOST:PORT (TLS), unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or "
    "redis+cluster://HOST:PORT,HOST:PORT (rediss+… with TLS)"
)


class Topology(Enum):
    SERVER = "server"
    SENTINEL = "sentinel"
    """The hosts are sentinels, which know the primary server of a service."""
    CLUSTER = "cluster"
    """The hosts are some nodes of a cluster, which know the other nodes."""


_DEFAULT_PORTS = {Topology.SENTINEL: 26379, Topology.CLUSTER: 6379}


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisURL:
    topology: Topology
    server: str
    """URL as for a single server, with scheme, user and password, database, and the client's options."""
    hosts: tuple[tuple[str, int], ...] = ()
    """Hosts and ports of sentinels or cluster nodes."""
    service: str = ""
    """Name of the service that the sentinels watch."""


def parse_redis_url(url: str) -> RedisURL:
    """Parse a URL. Raises ValueError, whose message never contains the URL, since that may have a password."""
    scheme, separator, _ = url.partition("://")
    if separator and scheme in ("redis", "rediss", "unix"):
        return RedisURL(topology=Topology.SERVER, server=url)
    base, _, name = scheme.partition("+")
    if not separator or base not in ("redis", "rediss") or name not in ("sentinel", "cluster"):
        raise ValueError(f"must be {MEMORY!r}, or a URL of one of these forms: {URL_FORMS}")
    topology, parts = Topology(name), urlsplit(url)
    credentials, at, places = parts.netloc.rpartition("@")
    hosts = tuple(_host(place, _DEFAULT_PORTS[topology]) for place in places.split(","))
    service, database = _service_and_database(topology, parts.path)
    first = places.partition(",")[0]
    server = urlunsplit((base, credentials + at + first, database, parts.query, ""))
    return RedisURL(topology=topology, server=server, hosts=hosts, service=service)


def check_index_url(url: str) -> None:
    if url != MEMORY:
        parse_redis_url(url)


def _host(place: str, default_port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host:
        raise ValueError("must name its hosts as HOST:PORT, separated by commas")
    return host, port or default_port


def _service_and_database(topology: Topology, path: str) -> tuple[str, str]:
    names: Sequence[str] = path.strip("/").split("/")
    if topology is Topology.CLUSTER:
        if names != [""]:
            raise ValueError("must end after the hosts of a cluster, because a cluster has only one database")
        return "", ""
    if not names[0] or len(names) > 2:
        raise ValueError(
            "must have the name of the service after the sentinels, and may have a database number after that: …/SERVICE/0"
        )
    return names[0], "".join(names[1:])
