"""`python -m pagoda.healthcheck TARGET`: whether a tier can do its work, as an exit status for container health checks.

A gateway is asked over HTTP, a scheduler over gRPC. A worker listens nowhere: it is healthy when its scheduler knows it.
"""

import argparse
import asyncio
import contextlib
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pagoda.grpc_channel import open_channel
from protos.v1 import inference_pb2, inference_pb2_grpc

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
            asyncio.run(check_grpc(options.target))
        else:
            asyncio.run(check_worker(options.target, options.worker))
    except UnhealthyError as error:
        print(f"{options.target}: {error}", file=sys.stderr)
        return 1
    return 0


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


async def check_grpc(address: str) -> None:
    """The server as a whole: a scheduler without workers is healthy, or no worker could ever wait for it."""
    async with open_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise UnhealthyError(error.details() or error.code().name) from None
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnhealthyError(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


async def check_worker(schedulers: str, prefix: str) -> None:
    """Attached to any of the schedulers, which are separated by commas as in the worker's own setting."""
    attached: list[str] = []
    for address in schedulers.split(","):
        async with open_channel(address.strip()) as channel:
            stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
            with contextlib.suppress(grpc.aio.AioRpcError):  # then it is attached to another, or nowhere
                load = await stub.GetLoad(inference_pb2.GetLoadRequest(), timeout=TIMEOUT_S / 2)
                attached += [worker.worker_id for worker in load.workers]
    if not any(worker_id.startswith(prefix) for worker_id in attached):
        raise UnhealthyError(f"no worker {prefix}… is attached, only: {', '.join(attached) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
