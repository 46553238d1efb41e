"""Which of several schedulers a worker should be at, so that each has its share of them and nobody has to say which.

Nothing is agreed upon and nothing remembered: every worker sees the same schedulers' loads and comes to the same
answer, who goes where, by itself.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import grpc

from pagoda.rpc.grpc_channel import open_channel
from pagoda.rpc.scheduler_load import ask_load
from pagoda.rpc.transport_security import TransportSecurity
from pagoda.wire.load import SchedulerLoad
from protos.v1 import worker_pb2

_ANSWER_LIMIT_S = 2.0


def by_preference(worker_id: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The order in which the worker tries the schedulers: another one for each worker, and for each always the same
    (rendezvous hashing), so that they begin spread and those of a dead scheduler spread over the others."""
    return tuple(sorted(addresses, key=lambda address: _score(worker_id, address)))


def better_place(worker_id: str, peers: Mapping[str, AbstractSet[str]]) -> str | None:
    """The scheduler that this worker should go to; None where it should stay. `peers`: by scheduler, itself and those like it.

    Where a scheduler has at least two more than another, one of them goes there: the one that prefers it most. One at a time,
    so that those who stay can take its sequences over.
    """
    here = next((ids for ids in peers.values() if worker_id in ids), frozenset[str]())
    others = {address: ids for address, ids in peers.items() if worker_id not in ids}
    if not others:
        return None
    least = min(others, key=lambda address: (len(others[address]), address))
    if len(here) < len(others[least]) + 2:
        return None
    return least if worker_id == min(here, key=lambda each: _score(each, least)) else None


async def find_peers(
    addresses: Sequence[str], model: worker_pb2.LoadedModel, security: TransportSecurity
) -> dict[str, AbstractSet[str]]:
    """By scheduler, the workers that compute the same bits of the same model. Not of those that drain or do not answer."""
    loads = await asyncio.gather(*(_load(address, security) for address in addresses))
    return {
        address: {
            worker.worker_id
            for worker in load.workers
            if (worker.model, worker.numerics_id) == (model.name, model.numerics_id)
        }
        for address, load in zip(addresses, loads, strict=True)
        if load is not None and not load.is_draining
    }


async def _load(address: str, security: TransportSecurity) -> SchedulerLoad | None:
    async with open_channel(address, security) as channel:
        try:
            return await ask_load(channel, _ANSWER_LIMIT_S)
        except grpc.aio.AioRpcError:
            return None


def _score(worker_id: str, address: str) -> bytes:
    return hashlib.sha256(f"{worker_id}\n{address}".encode()).digest()
