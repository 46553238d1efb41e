"""`python -m pagoda.healthcheck TARGET`: whether a tier can do its work, as an exit status for container health checks.

A gateway is asked over HTTP, a scheduler over gRPC. A worker listens nowhere: it is healthy when its scheduler knows it.
The check runs beside the tier, with the same environment, and so finds the same certificates and tokens.
"""

import argparse
import asyncio
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagoda.rpc.cluster_tokens import ClusterTokens, Role
from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.scheduler_load import ask_load
from pagoda.rpc.sockets import default_home
from pagoda.rpc.transport_security import TransportSecurity

TIMEOUT_S = 5.0


class UnhealthyError(Exception):
    """Why, in a few words."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pagoda.healthcheck", description=__doc__)
    parser.add_argument("target", help="http://…, or a gRPC address")
    parser.add_argument("--worker", metavar="PREFIX", help="ask the schedulers at TARGET for a worker of such an id")
    options = parser.parse_args(arguments)
    try:
        if options.target.startswith(("http://", "https://")):
            check_http(options.target)
        elif options.worker is None:
            asyncio.run(check_grpc(options.target, scheduler_security()))
        else:
            asyncio.run(check_worker(options.target, options.worker, told_security("WORKER")))
    except (UnhealthyError, OSError) as error:
        print(f"{options.target}: {error}", file=sys.stderr)
        return 1
    return 0


def scheduler_security() -> TransportSecurity:
    """Its own certificate proves that it is the scheduler, and that this asker belongs to it."""
    told = told_security("SCHEDULER")
    return replace(told, authority=told.authority or told.certificate)


def told_security(tier: str) -> TransportSecurity:
    """As the tier's own settings have it. Clear text too, since the question is no secret."""

    def told(name: str) -> str:
        return os.environ.get(f"PAGODA_{tier}_{name}") or os.environ.get(f"PAGODA_{name}") or ""

    files = (told(f"TLS_{name}") for name in ("CERT", "KEY", "CA"))
    certificate, key, authority = (Path(value) if value else None for value in files)
    return TransportSecurity(
        certificate=certificate,
        key=key,
        authority=authority,
        server_name=told("TLS_SERVER_NAME"),
        allows_plaintext=True,
        tokens=ClusterTokens.told(told("CLUSTER_TOKEN_FILE")),
        home_tokens=ClusterTokens.of_home(default_home()),
        role=Role.WORKER,
    )


def check_http(url: str) -> None:
    # A proxy in the environment is for the world outside.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        with error:
            raise UnhealthyError(f"{error.code} {error.read(1000).decode(errors='replace')}") from None
    except OSError as error:
        raise UnhealthyError(str(error)) from None


async def check_grpc(address: str, security: TransportSecurity) -> None:
    """The server as a whole: a scheduler without workers is healthy, or no worker could ever wait for it."""
    async with open_channel(address, security) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise UnhealthyError(security.explain(address, error.details() or error.code().name)) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnhealthyError(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def check_worker(schedulers: str, prefix: str, security: TransportSecurity) -> None:
    """Attached to any of the schedulers, which are separated by commas as in the worker's own setting."""
    found: list[str] = []
    for address in map(str.strip, schedulers.split(",")):
        async with open_channel(address, security) as channel:
            try:
                load = await ask_load(channel, TIMEOUT_S / 2)
            except grpc.aio.AioRpcError as error:  # then it is attached to another, or nowhere
                found.append(f"{address}: {security.explain(address, error.details() or error.code().name)}")
                continue
            if any(worker.worker_id.startswith(prefix) for worker in load.workers):
                return
            found += [worker.worker_id for worker in load.workers]
    raise UnhealthyError(f"no worker {prefix}… is attached, only: {', '.join(found) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
