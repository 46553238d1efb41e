"""`python -m pagoda.healthcheck TARGET`: a health check of a tier for containers, with exit status 0 or 1.

A gateway is checked over HTTP, a scheduler over gRPC. A worker does not listen; it is healthy if a scheduler has it attached.
The check runs beside the tier with the same environment, and so finds the same certificates and tokens.
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
    """The tier is not healthy. The message is the reason."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pagoda.healthcheck", description=__doc__)
    parser.add_argument("target", help="http://…, or a gRPC address")
    parser.add_argument(
        "--worker",
        metavar="PREFIX",
        help="check that the schedulers at TARGET have a worker whose id begins with PREFIX",
    )
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
    """Return the scheduler's own security settings. Its certificate serves as the authority if no authority is set."""
    told = told_security("SCHEDULER")
    return replace(told, authority=told.authority or told.certificate)


def told_security(tier: str) -> TransportSecurity:
    """Return the security settings of a tier from its environment. Clear text is allowed, because the check sends no secrets."""

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
    # Proxy settings of the environment must not apply to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        with error:
            raise UnhealthyError(f"{error.code} {error.read(1000).decode(errors='replace')}") from None
    except OSError as error:
        raise UnhealthyError(str(error)) from None


async def check_grpc(address: str, security: TransportSecurity) -> None:
    """Check the server as a whole. A scheduler without workers is healthy; otherwise no worker could wait for it."""
    async with open_channel(address, security) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise UnhealthyError(security.explain(address, error.details() or error.code().name)) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnhealthyError(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def check_worker(schedulers: str, prefix: str, security: TransportSecurity) -> None:
    """Check that the worker is attached to one of the schedulers, which are separated by commas as in the worker's setting."""
    found: list[str] = []
    for address in map(str.strip, schedulers.split(",")):
        async with open_channel(address, security) as channel:
            try:
                load = await ask_load(channel, TIMEOUT_S / 2)
            except grpc.aio.AioRpcError as error:  # the worker may be attached to another scheduler
                found.append(f"{address}: {security.explain(address, error.details() or error.code().name)}")
                continue
            if any(worker.worker_id.startswith(prefix) for worker in load.workers):
                return
            found += [worker.worker_id for worker in load.workers]
    raise UnhealthyError(f"no worker {prefix}… is attached (found: {', '.join(found) or 'none'})")


if __name__ == "__main__":
    sys.exit(main())
