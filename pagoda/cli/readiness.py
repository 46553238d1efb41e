"""Waiting until all that `pagoda serve` started is there, and the sentence for when it does not come.

It asks the gateway and the scheduler, and reads logs.
"""

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from pagoda.cli.logs import last_lines
from pagoda.cli.tiers import ServeOptions, tier_commands

if TYPE_CHECKING:
    from pagoda.wire.load import SchedulerLoad

READY_DEADLINE_S = 300.0
_ANSWER_LIMIT_S = 10.0
_POLL_S = 0.05


class NotReadyError(Exception):
    """What has not come, what is known of it and what to do, as sentences."""


async def wait_for_gateway(options: ServeOptions, deadline_s: float = READY_DEADLINE_S) -> list[str]:
    """Where it listens, once it is ready: for that one worker is enough."""
    import httpx  # While the tiers load: their start is not held up by this import.

    answer = "it did not answer"
    try:
        async with asyncio.timeout(deadline_s), httpx.AsyncClient(trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    response = await client.get(f"{options.url}/ready")
                    if response.is_success:
                        return list(response.json()["addresses"])
                    answer = response.text
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotReadyError(f"not ready after {deadline_s:g} s ({answer}). {_last_words(options)}") from None


async def wait_for_workers(options: ServeOptions, deadline_s: float = READY_DEADLINE_S) -> "SchedulerLoad":
    """What the scheduler says of all of them."""
    # Children are forked to become other programs: threads that gRPC would start in them may only abort them.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    import grpc

    from pagoda.rpc.cluster_tokens import ClusterTokens, Role
    from pagoda.rpc.grpc_channel import open_channel
    from pagoda.rpc.scheduler_load import ask_load
    from pagoda.rpc.transport_security import TransportSecurity

    tokens = ClusterTokens(paths=(options.token_file(Role.GATEWAY),))
    security = TransportSecurity(tokens=tokens, role=Role.GATEWAY)
    num_attached, trouble = 0, ""
    try:
        async with asyncio.timeout(deadline_s), open_channel(options.scheduler_address, security) as channel:
            while True:
                try:
                    load = await ask_load(channel, _ANSWER_LIMIT_S)
                    num_attached, trouble = len(load.workers), ""
                    if num_attached >= options.num_workers:
                        return load
                except grpc.aio.AioRpcError as error:
                    trouble = f" The scheduler does not answer: {error.details() or error.code().name}."
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotReadyError(
            f"only {num_attached} of {options.num_workers} workers have come within {deadline_s:g} s.{trouble} "
            f"If the machine is short of memory or busy, start fewer with --workers. {_last_words(options)}"
        ) from None


def _last_words(options: ServeOptions) -> str:
    lines = [
        f"  {command.log}: {said[0]}"
        for command in tier_commands(options)
        if command.name.startswith("worker") and (said := last_lines(command.log, 1))
    ]
    return "\n".join([f"The logs are in {options.log_directory}; the last that each worker said:", *lines])
