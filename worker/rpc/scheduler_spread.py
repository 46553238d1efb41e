"""The choice of a scheduler by each worker, which spreads workers evenly over schedulers without a coordinator.

Workers exchange no messages and keep no state for it: each one reads the loads of all schedulers and computes the same
answer.
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
    """Return the order in which the worker tries the schedulers (rendezvous hashing).

    It differs between workers and is always the same for one worker. So workers start out spread, and those of a failed
    scheduler spread over the others.
    """
    return tuple(sorted(addresses, key=lambda address: _score(worker_id, address)))


def better_place(worker_id: str, peers: Mapping[str, AbstractSet[str]]) -> str | None:
    """Return the scheduler that this worker should move to, or None if it should stay.

    `peers` maps each scheduler to its workers that are like this one, including this one. If a scheduler has at least two more
    of them than another, one worker moves there: the one that prefers it most. Workers move one at a time, so that those that
    stay can take over its sequences.
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
    """Return the workers of each scheduler that compute the same model with the same bits.

    Schedulers that drain or do not answer are left out.
    """
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
