"""The health check of containers, with a real gateway app, a real scheduler, and no server."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda.healthcheck import main
from tests.fakes.gateway import running_gateway
from tests.fakes.scheduler_process import instant_worker, scheduler


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a directory whose path is short enough for a unix socket, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        yield Path(directory)


async def check(*arguments: str) -> int:
    """Run the check in a thread, because it starts its own event loop."""
    return await asyncio.to_thread(main, arguments)


async def test_http(short_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_gateway(short_path) as gateway:
        assert await check(f"{gateway.url}/health") == 0
        assert await check(f"{gateway.url}/ready") == 0
        gateway.app.state.gateway.drain.begin_drain()
        assert await check(f"{gateway.url}/ready") == 1
        assert "shutting down" in capsys.readouterr().err
    assert await check(f"{gateway.url}/health") == 1
    assert "refused" in capsys.readouterr().err


async def test_a_scheduler_is_healthy_without_workers_and_a_worker_once_it_is_attached(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scheduler(short_path) as (address, _):
        assert await check(address) == 0
        assert await check(address, "--worker", "box") == 1
        assert "none" in capsys.readouterr().err
        async with instant_worker(address, worker_id="box-1"):
            assert await check(address, "--worker", "box") == 0
            assert await check(f"unix:{short_path}/other.sock,{address}", "--worker", "box-1") == 0
            assert await check(address, "--worker", "crate") == 1
            assert "box-1" in capsys.readouterr().err


async def test_nobody_there(short_path: Path) -> None:
    assert await check(f"unix:{short_path}/none.sock") == 1
