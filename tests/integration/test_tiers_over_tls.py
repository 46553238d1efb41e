"""Worker, scheduler and the gateway's client over TCP, each with a certificate that the others demand."""

import asyncio
from pathlib import Path

from gateway.inference import InferenceRequest, Tokens
from gateway.placement import Placement
from gateway.prefix_hints import PrefixHints
from gateway.scheduler_client import SchedulerClient
from gateway.schedulers import Schedulers
from gateway.settings import GatewaySettings
from kvcache.prefix_index import InMemoryPrefixIndex
from pagoda.healthcheck import check_worker
from pagoda.sampling import SamplingParams
from scheduler.__main__ import running_scheduler
from scheduler.settings import SchedulerSettings
from tests.e2e.system import free_port
from tests.fakes.certificates import Authority
from tests.fakes.worker import fake_worker_link
from worker.settings import WorkerSettings


async def test_a_request_crosses_all_tiers_with_mutual_tls(tmp_path: Path) -> None:
    authority, address = Authority(tmp_path), f"127.0.0.1:{free_port()}"

    def tls(tier: str) -> dict[str, Path]:
        files = authority.issue(tier)
        return {"tls_cert": files.certificate, "tls_key": files.key, "tls_ca": authority.path}

    worker = WorkerSettings(scheduler=address, **tls("worker"))  # type: ignore[arg-type]  # only paths
    gateway = GatewaySettings(scheduler=address, **tls("gateway"))  # type: ignore[arg-type]
    async with running_scheduler(SchedulerSettings(listen=address, **tls("scheduler"))):  # type: ignore[arg-type]
        attaching = asyncio.create_task(fake_worker_link(address, worker_id="w1", security=worker.security).run())
        client = SchedulerClient(address, silence_s=60, security=gateway.security)
        placement = Placement(Schedulers([client], outage_grace_s=60), PrefixHints(InMemoryPrefixIndex()))
        await placement.start()
        while client.problem is not None:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.01)
        sampling = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True, seed=1)
        request = InferenceRequest(request_id="r", model="fake", prompt_token_ids=(1, 2, 3), sampling=sampling)
        events = [event async for event in await placement.open(request)]
        assert sum(len(event.token_ids) for event in events if isinstance(event, Tokens)) == 4
        await check_worker(address, "w1", worker.security)
        await placement.close()
        attaching.cancel()
        await asyncio.gather(attaching, return_exceptions=True)
