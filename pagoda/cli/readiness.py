"""Waits until everything that `pagoda serve` started is ready, and describes what is missing if it is not.

It polls the gateway and the scheduler, and reads logs.
"""

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from pagoda.cli.logs import last_lines
from pagoda.cli.tiers import ServeOptions, tier_commands
from pagoda.process.progress_file import read_progress

if TYPE_CHECKING:
    from pagoda.wire.load import SchedulerLoad

READY_DEADLINE_S = 300.0
_ANSWER_LIMIT_S = 10.0
_POLL_S = 0.05


class NotReadyError(Exception):
    """Part of the system did not become ready in time. The message says what is missing, why, and what to do."""


class LoadingWatch:
    """Prolongs a time limit as long as a worker comes further in loading its model."""

    def __init__(self, options: ServeOptions, limit: asyncio.Timeout, deadline_s: float) -> None:
        self._files = [options.progress_file(name) for name in options.worker_names]
        self._limit = limit
        self._deadline_s = deadline_s
        self._seen = self._read()

    def prolong(self) -> None:
        if (now := self._read()) != self._seen:
            self._seen = now
            self._limit.reschedule(asyncio.get_running_loop().time() + self._deadline_s)

    def _read(self) -> list[tuple[int, int] | None]:
        return list(map(read_progress, self._files))


async def wait_for_gateway(options: ServeOptions, deadline_s: float = READY_DEADLINE_S) -> list[str]:
    """Wait until the gateway is ready, which takes one attached worker; return the addresses that it listens on."""
    import httpx  # Imported while the tiers load, so that it does not delay their start.

    answer = "it did not answer"
    try:
        async with asyncio.timeout(deadline_s) as limit, httpx.AsyncClient(trust_env=False) as client:
            loading = LoadingWatch(options, limit, deadline_s)
            while True:
                loading.prolong()
                with contextlib.suppress(httpx.TransportError):
                    response = await client.get(f"{options.url}/ready")
                    if response.is_success:
                        return list(response.json()["addresses"])
                    answer = response.text
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise NotReadyError(f"not ready after {deadline_s:g} s ({answer}). {_last_words(options)}") from None


async def wait_for_workers(options: ServeOptions, deadline_s: float = READY_DEADLINE_S) -> "SchedulerLoad":
    """Wait until all workers are attached to the scheduler; return its load."""
    # Children are forked only to exec other programs; gRPC's threads in them could only make them abort.
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
        async with asyncio.timeout(deadline_s) as limit, open_channel(options.scheduler_address, security) as channel:
            loading = LoadingWatch(options, limit, deadline_s)
            while True:
                loading.prolong()
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
            f"only {num_attached} of {options.num_workers} workers attached within {deadline_s:g} s.{trouble} "
            f"If memory or cores are short, start fewer with --workers. {_last_words(options)}"
        ) from None


def _last_words(options: ServeOptions) -> str:
    lines = [
        f"  {command.log}: {said[0]}"
        for command in tier_commands(options)
        if command.name.startswith("worker") and (said := last_lines(command.log, 1))
    ]
    return "\n".join([f"The logs are in {options.log_directory}. Last line of each worker:", *lines])
