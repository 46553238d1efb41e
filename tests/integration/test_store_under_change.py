"""A test that creates, replaces and deletes many models through the gateway while others list them: every new model answers."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import pytest

from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.log_records import own_records
from worker.loading.local_models import LocalModels
from worker.settings import WorkerSettings

NUM_WRITERS, NUM_ROUNDS = 5, 16
# Each round creates a model, asks it, replaces it and asks it again. Every second model is then deleted.


async def learn(gateway: RunningGateway, home: Path, done: asyncio.Event) -> None:
    """Refresh the list of models again and again, and publish it, as a worker and a scheduler do."""
    worker = LocalModels(WorkerSettings(home=home, model=str(home / "tiny.gguf"), scheduler="unix:/none"))
    while not done.is_set():
        if await asyncio.to_thread(worker.refresh):
            gateway.scheduler.models[1:] = [
                inference_pb2.ModelInfo(
                    name=model.name, digest=model.digest, max_model_len=512, num_unloaded_workers=1, page_size=16
                )
                for model in worker.loadable_models().models
                if model.name != "tiny"
            ]
        await asyncio.sleep(0.02)


async def change(gateway: RunningGateway, place: int, seen: Counter[tuple[str, int]]) -> None:
    for number in range(NUM_ROUNDS):
        name = f"n{place}/m{number}"
        for system in ("one", "two"):
            body = {"model": name, "from": "tiny", "system": system, "stream": False}
            made = await gateway.http.post("/api/create", json=body)
            seen["create", made.status_code] += 1
            chat = {"model": name, "messages": [{"role": "user", "content": "x"}]}
            answer = await gateway.http.post("/v1/chat/completions", json=chat)
            seen["chat", answer.status_code] += 1
            shown = await gateway.http.post("/api/show", json={"model": name})
            assert shown.json()["system"] == system
        if number % 2:
            deleted = await gateway.http.request("DELETE", "/api/delete", json={"model": name})
            seen["delete", deleted.status_code] += 1


async def read(gateway: RunningGateway, path: str, done: asyncio.Event, seen: Counter[tuple[str, int]]) -> None:
    for number in itertools.count():
        if path == "/api/show":
            body = {"model": f"n{number % NUM_WRITERS}/m{number % NUM_ROUNDS}", "verbose": True}
            answer = await gateway.http.post(path, json=body)
            assert answer.status_code != 404 or "not found" in answer.text
        else:
            answer = await gateway.http.get(path)
        seen[path, answer.status_code] += 1
        if done.is_set():
            return


async def test_models_come_and_go_while_they_are_listed(short_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: Counter[tuple[str, int]] = Counter()
    done = asyncio.Event()
    async with running_gateway(short_path) as gateway, asyncio.TaskGroup() as group:
        group.create_task(learn(gateway, short_path, done))
        for path in ("/api/tags", "/v1/models", "/api/show", "/api/ps"):
            group.create_task(read(gateway, path, done, seen))
        writing = [asyncio.create_task(change(gateway, place, seen)) for place in range(NUM_WRITERS)]
        try:
            await asyncio.gather(*writing)
        finally:
            done.set()
    num_models = NUM_WRITERS * NUM_ROUNDS
    assert seen["create", 200] == seen["chat", 200] == 2 * num_models
    assert seen["delete", 200] == NUM_WRITERS * (NUM_ROUNDS // 2)
    assert {status for path, status in seen if path != "/api/show"} == {200}
    assert {status for path, status in seen if path == "/api/show"} <= {200, 404}
    assert [record for record in own_records(caplog) if record.exc_info] == []
