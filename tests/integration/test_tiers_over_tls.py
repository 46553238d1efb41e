"""A test of worker, scheduler and the gateway's client over TCP with mutual TLS, also after certificates were renewed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gateway.settings import GatewaySettings
from gateway.upstream.placement import Placement
from gateway.upstream.prefix_hints import PrefixHints
from gateway.upstream.scheduler_client import SchedulerClient
from gateway.upstream.schedulers import Schedulers
from kvcache.prefix_index import InMemoryPrefixIndex
from pagoda.healthcheck import check_worker
from pagoda.rpc.transport_security import TransportSecurity
from pagoda.wire.events import Tokens
from pagoda.wire.inference_request import InferenceRequest
from pagoda.wire.sampling import SamplingParams
from scheduler.__main__ import running_scheduler
from scheduler.settings import SchedulerSettings
from tests.e2e.system import free_port
from tests.fakes.certificates import Authority
from tests.fakes.worker import fake_worker_link
from worker.settings import WorkerSettings

TIERS = ("worker", "scheduler", "gateway")


def issue(directory: Path) -> dict[str, dict[str, Path]]:
    """Issue certificates by a new authority, in place of earlier ones."""
    authority, flags = Authority(directory), {}
    for tier in TIERS:
        files = authority.issue(tier)
        flags[tier] = {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": authority.path}
    return flags


@asynccontextmanager
async def placing(address: str, security: TransportSecurity) -> AsyncIterator[tuple[SchedulerClient, Placement]]:
    client = SchedulerClient(address, silence_s=60, security=security)
    placement = Placement(Schedulers([client], outage_grace_s=60), PrefixHints(InMemoryPrefixIndex()))
    await placement.start()
    try:
        yield client, placement
    finally:
        await placement.close()


@asynccontextmanager
async def attached_worker(address: str, security: TransportSecurity) -> AsyncIterator[None]:
    attaching = asyncio.create_task(fake_worker_link(address, worker_id="w1", security=security).run())
    try:
        yield
    finally:
        attaching.cancel()
        await asyncio.gather(attaching, return_exceptions=True)


async def check_all_tiers(client: SchedulerClient, placement: Placement, worker: TransportSecurity) -> None:
    while client.problem is not None or "fake" not in client.models:  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.01)
    sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, seed=1)
    request = InferenceRequest(request_id="r", model="fake", prompt_token_ids=(1, 2, 3), sampling=sampling)
    events = [event async for event in await placement.open_request(request)]
    assert sum(len(event.token_ids) for event in events if isinstance(event, Tokens)) == 4
    await check_worker(client.address, "w1", worker)


async def test_requests_cross_all_tiers_with_mutual_tls_and_with_renewed_certificates_too(tmp_path: Path) -> None:
    address, flags = f"127.0.0.1:{free_port()}", issue(tmp_path)
    settings = SchedulerSettings(listen=address, **flags["scheduler"])  # type: ignore[arg-type]  # only paths
    worker = WorkerSettings(scheduler=address, **flags["worker"]).security  # type: ignore[arg-type]
    gateway = GatewaySettings(scheduler=address, **flags["gateway"]).security  # type: ignore[arg-type]
    async with AsyncExitStack() as stack, AsyncExitStack() as ending:
        await ending.enter_async_context(running_scheduler(settings))
        await stack.enter_async_context(attached_worker(address, worker))
        client, placement = await stack.enter_async_context(placing(address, gateway))
        await check_all_tiers(client, placement, worker)
        # A process that still uses the certificates from its start is refused now.
        issue(tmp_path)
        await ending.aclose()
        await ending.enter_async_context(running_scheduler(settings))
        await check_all_tiers(client, placement, worker)
