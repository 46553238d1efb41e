"""Tests of `/api/pull` with a puller that the test advances step by step: its lines, its errors, and several clients."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.models import pulls as gateway_pulls
from gateway.models.pulls import Pulls
from pagoda.models.errors import (
    ModelAccessError,
    ModelFormatError,
    ModelNotFoundError,
    ModelSourceError,
    ModelStoreError,
)
from tests.fakes.gateway import RunningGateway
from tests.fakes.stepped_puller import VERIFYING, SteppedPuller, downloading

PULL = {"model": "Org/Repo:Q8_0"}


@pytest.fixture
def puller(gateway: RunningGateway, short_path: Path) -> SteppedPuller:
    """Return the puller of the gateway."""
    puller = SteppedPuller(short_path, short_path / "tiny.gguf")
    gateway.app.state.gateway.pulls._puller = puller
    return puller


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def statuses(response: httpx.Response) -> list[str]:
    return [line["status"] for line in lines(response)]


async def test_each_file_has_lines_that_never_fall_and_end_at_its_size(
    gateway: RunningGateway, puller: SteppedPuller
) -> None:
    config = {"name": "config.json", "digest": "cd" * 20, "total": 7}
    puller.steps = [downloading(0), downloading(40), downloading(7, **config), downloading(100), VERIFYING]  # type: ignore[arg-type]  # names of keywords
    puller.go_on.set()
    answer = lines(await gateway.http.post("/api/pull", json=PULL))
    assert answer[0] == {"status": "pulling manifest"}
    assert [line["status"] for line in answer[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    weights = [line for line in answer if line["status"] == "pulling abababababab"]
    counts = [line["completed"] for line in weights]
    assert counts == sorted(counts) and counts[-1] == 100
    assert {(line["digest"], line["total"]) for line in weights} == {(f"sha256:{'ab' * 32}", 100)}
    (small,) = [line for line in answer if line["status"] == "pulling cdcdcdcdcdcd"]
    assert (small["digest"], small["completed"], small["total"]) == (f"sha1:{'cd' * 20}", 7, 7)


async def test_a_model_that_is_up_to_date(gateway: RunningGateway, puller: SteppedPuller) -> None:
    puller.go_on.set()
    answer = lines(await gateway.http.post("/api/pull", json=PULL))
    assert [line["status"].split()[0] for line in answer] == ["pulling", "pulling", "verifying", "writing", "success"]
    assert answer[1]["completed"] == answer[1]["total"] > 0
    whole = await gateway.http.post("/api/pull", json=PULL | {"stream": False})
    assert whole.json() == {"status": "success"}


async def test_the_source_gets_the_name_as_it_was_written(gateway: RunningGateway, puller: SteppedPuller) -> None:
    puller.go_on.set()
    for fields in ({}, {"insecure": False}, {"insecure": True}):
        await gateway.http.post("/api/pull", json=PULL | fields)
    assert puller.calls == [("Org/Repo:Q8_0", False), ("Org/Repo:Q8_0", False), ("Org/Repo:Q8_0", True)]


async def test_a_pull_continues_without_its_client_and_another_joins_it(
    gateway: RunningGateway, puller: SteppedPuller
) -> None:
    first = asyncio.create_task(gateway.http.post("/api/pull", json=PULL))
    await asyncio.to_thread(puller.begun.wait, 60)
    second = asyncio.create_task(gateway.http.post("/api/pull", json={"model": "org/repo:q8_0"}))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    third = asyncio.create_task(gateway.http.post("/api/pull", json=PULL))
    async with gateway.http.stream("POST", "/api/pull", json=PULL) as fourth:
        assert await anext(fourth.aiter_lines()) == '{"status":"pulling manifest"}'
        puller.go_on.set()
        for waiting in (second, third):
            assert statuses(await waiting)[-1] == "success"
    assert len(puller.calls) == 1


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (ModelNotFoundError("no such model at https://hf.co/org/repo"), 404, "no such model at https://hf.co/org/repo"),
        (ModelAccessError("org/repo is gated; accept its terms"), 403, "org/repo is gated; accept its terms"),
        (ModelSourceError("the hub is not reachable"), 502, "the hub is not reachable"),
        (ModelFormatError("model.gguf: architecture 'x' is not supported"), 400, "architecture 'x' is not supported"),
        (ModelStoreError("no space in /home/me/.pagoda/models"), 500, "no space in models"),
        (PermissionError(13, "Permission denied", "/home/me"), 500, "the model could not be stored: Permission denied"),
    ],
    ids=["unknown", "gated", "source", "unusable", "store", "file system"],
)
async def test_a_pull_that_fails(
    gateway: RunningGateway, puller: SteppedPuller, failure: Exception, status: int, message: str
) -> None:
    puller.failure = failure
    puller.go_on.set()
    first, last = lines(await gateway.http.post("/api/pull", json=PULL))
    assert first == {"status": "pulling manifest"}
    assert message in last["error"]
    whole = await gateway.http.post("/api/pull", json=PULL | {"stream": False})
    assert (whole.status_code, whole.json()) == (status, last)


async def test_the_base_of_a_new_model_is_pulled(gateway: RunningGateway, puller: SteppedPuller) -> None:
    puller.steps = [downloading(0), downloading(100), VERIFYING]
    puller.go_on.set()
    response = await gateway.http.post("/api/create", json={"model": "mine", "from": "Org/Repo", "system": "S"})
    assert [line["status"] for line in lines(response) if "total" not in line] == [
        "pulling manifest",
        "verifying sha256 digest",
        "writing manifest",
        f"using existing layer sha256:{hashlib.sha256(puller.file.read_bytes()).hexdigest()}",
        "writing manifest",
        "success",
    ]
    shown = (await gateway.http.post("/api/show", json={"model": "mine"})).json()
    assert (shown["system"], shown["details"]["parent_model"]) == ("S", "org/repo:latest")


async def test_a_base_that_cannot_be_pulled(gateway: RunningGateway, puller: SteppedPuller) -> None:
    puller.failure = ModelNotFoundError("no such model: org/repo")
    puller.go_on.set()
    body = {"model": "mine", "from": "org/repo", "stream": False}
    response = await gateway.http.post("/api/create", json=body)
    assert (response.status_code, response.json()) == (404, {"error": "no such model: org/repo"})


@pytest.mark.parametrize("body", [{}, {"model": "/etc/passwd"}, {"model": "a b"}, {"model": "model@v1"}])
async def test_what_is_not_a_name(gateway: RunningGateway, puller: SteppedPuller, body: dict[str, str]) -> None:
    assert (await gateway.http.post("/api/pull", json=body)).status_code == 404
    assert not puller.calls


async def test_a_silent_network_does_not_delay_the_end_of_a_server(
    gateway: RunningGateway, puller: SteppedPuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_pulls, "CLOSE_TIMEOUT_S", 0.01)
    pulls = Pulls(puller, str.lower)
    puller.steps = [downloading(1)]
    pull = pulls.watch_pull("tiny")
    await asyncio.to_thread(puller.begun.wait, 60)
    await pulls.stop_pulls()
    assert not pull.task.done()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "pull"]
    assert thread.daemon
    puller.go_on.set()
    with pytest.raises(gateway_pulls.PullStoppedError, match="resume"):  # at its next progress
        await pull.task
