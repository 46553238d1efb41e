"""The gateway with the models of an Ollama installation: an empty home, and files that stay in Ollama's store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.ollama_store import FakeOllamaStore, tree_state
from tests.fakes.tiny_model import write_tiny_gguf
from worker.loading.local_models import LocalModels
from worker.settings import WorkerSettings

HUB_NAME = "hf.co/Bartowski/Tiny-GGUF:Q4_K_M"


@pytest.fixture
def ollama(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeOllamaStore:
    monkeypatch.setenv("OLLAMA_MODELS", str(short_path / "ollama"))
    store = FakeOllamaStore(short_path / "ollama")
    texts = {"system": "Be brief.", "template": "{{ .System }} and {{ .Prompt }}"}
    store.add("mine", write_tiny_gguf(short_path / "mine.gguf", seed=1), texts=texts, params={"top_k": 3})
    store.add(HUB_NAME, write_tiny_gguf(short_path / "hub.gguf", seed=2))
    store.add("adapted", short_path / "mine.gguf", texts={"adapter": b"GGUF"})
    return store


@pytest.fixture
async def gateway(short_path: Path, ollama: FakeOllamaStore) -> AsyncIterator[RunningGateway]:
    """Yield a gateway whose scheduler reports what a worker with the same stores finds."""
    async with running_gateway(short_path) as running:
        settings = WorkerSettings(home=short_path, model=str(short_path / "tiny.gguf"), scheduler="unix:/none")
        worker = LocalModels(settings)
        worker.refresh()
        running.scheduler.models += [
            inference_pb2.ModelInfo(name=each.name, digest=each.digest, max_model_len=512, num_workers=1, page_size=16)
            for each in worker.loadable_models().models
            if each.name != "tiny"
        ]
        yield running


async def test_models_of_ollama_are_listed_and_answer(
    gateway: RunningGateway, short_path: Path, ollama: FakeOllamaStore
) -> None:
    before = tree_state(ollama.directory)
    http = gateway.http
    tags = {each["name"]: each for each in (await http.get("/api/tags")).json()["models"]}
    assert sorted(tags) == [HUB_NAME, "mine:latest", "tiny:latest"]
    models = (await http.get("/v1/models")).json()["data"]
    assert {each["id"] for each in models} == {HUB_NAME, "mine:latest", "tiny"}
    assert {each["name"] for each in (await http.get("/api/ps")).json()["models"]} == {*tags}
    assert (await http.get(f"/v1/models/{HUB_NAME}")).json()["id"] == HUB_NAME
    shown = (await http.post("/api/show", json={"model": "Mine"})).json()
    assert shown["system"] == "Be brief." and shown["modified_at"] == tags["mine:latest"]["modified_at"]
    message = {"role": "user", "content": "x"}
    for path, body in (
        ("/api/chat", {"model": "mine", "messages": [message]}),
        ("/api/generate", {"model": "mine:latest", "prompt": "x"}),
        ("/v1/chat/completions", {"model": "bartowski/tiny-gguf:q4_k_m", "messages": [message]}),
        ("/v1/completions", {"model": HUB_NAME, "prompt": "x"}),
    ):
        response = await http.post(path, json=body)
        assert response.status_code == 200, response.text
    assert [request.model for request in gateway.scheduler.requests] == ["mine:latest"] * 2 + [HUB_NAME] * 2
    assert gateway.scheduler.requests[0].sampling.top_k == 3
    # The GGUF file's template in Jinja is used, not Ollama's in Go.
    prompt = bytes(token for token in gateway.scheduler.requests[0].prompt_token_ids if token < 256)
    assert prompt == b"system\nBe brief.\nuser\nx\nassistant\n"
    response = await http.post("/api/generate", json={"model": "adapted", "prompt": "x"})
    assert response.status_code == 400 and "LoRA adapter" in response.json()["error"]
    assert tree_state(ollama.directory) == before
    assert not [
        path for path in (short_path / "models").rglob("*") if path.suffix == ".gguf" or "manifest" in path.name
    ]


async def test_ollamas_models_can_be_copied_but_not_deleted(gateway: RunningGateway, ollama: FakeOllamaStore) -> None:
    before = tree_state(ollama.directory)
    http = gateway.http
    response = await http.request("DELETE", "/api/delete", json={"model": "mine"})
    assert response.status_code == 409
    assert response.json() == {"error": "model 'mine:latest' belongs to Ollama; remove it there: ollama rm mine:latest"}
    copied = await http.post("/api/copy", json={"source": "mine", "destination": "copy"})
    created = await http.post(
        "/api/create", json={"model": "mine", "from": "mine", "system": "Be kind.", "stream": False}
    )
    assert (copied.status_code, created.json()) == (200, {"status": "success"})
    tags = {each["name"]: each for each in (await http.get("/api/tags")).json()["models"]}
    assert sorted(tags) == ["copy:latest", HUB_NAME, "mine:latest", "tiny:latest"]
    assert (await http.post("/api/show", json={"model": "mine"})).json()["system"] == "Be kind."
    assert (await http.request("DELETE", "/api/delete", json={"model": "mine"})).status_code == 200
    assert (await http.post("/api/show", json={"model": "mine"})).json()["system"] == "Be brief."
    assert tree_state(ollama.directory) == before


async def test_what_ollama_removes_is_gone_at_once(gateway: RunningGateway, ollama: FakeOllamaStore) -> None:
    body = {"model": "mine", "prompt": "x"}
    assert (await gateway.http.post("/api/generate", json=body)).status_code == 200
    ollama.manifest("mine").unlink()
    assert (await gateway.http.post("/api/generate", json=body)).status_code == 404
    assert {each["name"] for each in (await gateway.http.get("/api/tags")).json()["models"]} == {
        HUB_NAME,
        "tiny:latest",
    }
