"""Tests of requests for text that name a model which is not here: it is pulled if the setting allows it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest

from gateway.models import pull_on_demand
from pagoda.models.errors import ModelAccessError, ModelNotFoundError, ModelSourceError
from pagoda.models.model import Model
from pagoda.models.sources.progress import OnProgress
from pagoda.models.store import ModelStore
from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.stepped_puller import SteppedPuller

NAME = "Org/Repo:Q8_0"
HELLO = [{"role": "user", "content": "Hi"}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat completions": ("/v1/chat/completions", {"messages": HELLO}),
    "completions": ("/v1/completions", {"prompt": "Hi"}),
    "chat": ("/api/chat", {"messages": HELLO, "stream": False}),
    "generate": ("/api/generate", {"prompt": "Hi", "stream": False}),
    "load": ("/api/generate", {}),
}
each_request = pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)


class WorkerWithTheStore(SteppedPuller):
    """A puller whose models a worker has, too: the scheduler reports each of them."""

    def __init__(self, gateway: RunningGateway, home: Path) -> None:
        super().__init__(home, home / "tiny.gguf")
        self._gateway = gateway

    def pull(self, name: str, on_progress: OnProgress, *, insecure: bool = False) -> Model:
        model = super().pull(name, on_progress, insecure=insecure)
        info = inference_pb2.ModelInfo(name=model.name, digest=model.digest, max_model_len=512, num_unloaded_workers=1)
        self._gateway.scheduler.models.append(info)
        return model


@pytest.fixture(name="gateway")
async def pulling_gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path, pull_on_demand=True, comment_interval_s=0.02) as running:
        yield running


@pytest.fixture
def puller(gateway: RunningGateway, short_path: Path) -> SteppedPuller:
    puller = WorkerWithTheStore(gateway, short_path)
    gateway.app.state.gateway.pulls._puller = puller
    return puller


async def post(gateway: RunningGateway, path: str, body: dict[str, Any], model: str = NAME) -> httpx.Response:
    return await gateway.http.post(path, json={"model": model, **body})


def message(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


@each_request
async def test_a_missing_model_is_pulled_and_served(
    gateway: RunningGateway, puller: SteppedPuller, path: str, body: dict[str, Any]
) -> None:
    puller.go_on.set()
    assert (await post(gateway, path, body)).status_code == 200
    assert (await post(gateway, path, body, "org/repo:q8_0")).status_code == 200
    assert puller.calls == [(NAME, False)]


@each_request
async def test_without_the_setting_the_error_says_how_to_get_the_model(
    short_path: Path, path: str, body: dict[str, Any]
) -> None:
    async with running_gateway(short_path) as gateway:
        response = await post(gateway, path, body)
    assert response.status_code == 404
    assert f"To download it: pagoda pull {NAME}, or POST /api/pull" in message(response)


@each_request
@pytest.mark.parametrize(
    ("failure", "status"),
    [(ModelNotFoundError("x"), 404), (ModelAccessError("x"), 403), (ModelSourceError("x"), 502)],
    ids=["unknown", "gated", "source"],
)
async def test_failures_are_those_of_a_pull(
    gateway: RunningGateway,
    puller: SteppedPuller,
    path: str,
    body: dict[str, Any],
    failure: Exception,
    status: int,
) -> None:
    puller.failure = failure
    puller.go_on.set()
    for _ in range(2):
        response = await post(gateway, path, body)
        assert (response.status_code, message(response)) == (status, "x")
    assert len(puller.calls) == 1  # a client that repeats its request does not ask the source again


async def test_the_source_is_asked_again_after_some_time(
    gateway: RunningGateway, puller: SteppedPuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_on_demand, "FAILURE_TTL_S", 0.0)
    puller.failure = ModelSourceError("x")
    puller.go_on.set()
    assert (await post(gateway, *REQUESTS["chat"])).status_code == 502
    puller.failure = None
    assert (await post(gateway, *REQUESTS["chat"])).status_code == 200


@pytest.mark.parametrize("name", ["127.0.0.1:1/org/repo", "registry.example.com/org/repo:tag", "/etc/passwd", "a b"])
@each_request
async def test_a_request_cannot_choose_the_host(
    gateway: RunningGateway, puller: SteppedPuller, path: str, body: dict[str, Any], name: str
) -> None:
    assert (await post(gateway, path, body, name)).status_code == 404
    assert not puller.calls


async def test_what_generates_no_text_pulls_nothing(gateway: RunningGateway, puller: SteppedPuller) -> None:
    assert (await gateway.http.get(f"/v1/models/{NAME}")).status_code == 404
    assert (await gateway.http.post("/api/show", json={"model": NAME})).status_code == 404
    assert (await post(gateway, "/api/generate", {"keep_alive": 0})).status_code == 404
    assert not puller.calls


async def test_a_stream_gets_comments_while_it_waits(gateway: RunningGateway, puller: SteppedPuller) -> None:
    body = {"model": NAME, "messages": HELLO, "stream": True}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        chunks = response.aiter_bytes()
        assert (await anext(chunks)).startswith(b": waiting\n\n")
        puller.go_on.set()
        assert b"".join([chunk async for chunk in chunks]).endswith(b"data: [DONE]\n\n")


async def test_an_error_behind_a_comment_is_an_event(gateway: RunningGateway, puller: SteppedPuller) -> None:
    puller.failure = ModelNotFoundError("no such model")
    body = {"model": NAME, "messages": HELLO, "stream": True}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body) as response:
        chunks = response.aiter_bytes()
        await anext(chunks)
        puller.go_on.set()
        rest = b"".join([chunk async for chunk in chunks])
    assert b'data: {"error":{"message":"no such model","type":"not_found_error"' in rest


@each_request
async def test_the_pull_continues_without_the_client(
    gateway: RunningGateway, puller: SteppedPuller, path: str, body: dict[str, Any]
) -> None:
    leaving = asyncio.create_task(post(gateway, path, body))
    await asyncio.to_thread(puller.begun.wait, 60)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    puller.go_on.set()
    assert (await post(gateway, path, body)).status_code == 200
    assert len(puller.calls) == 1


async def test_only_a_few_models_are_pulled_at_a_time(
    gateway: RunningGateway, puller: SteppedPuller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_on_demand, "MAX_PULLS", 1)
    first = asyncio.create_task(post(gateway, *REQUESTS["chat"]))
    await asyncio.to_thread(puller.begun.wait, 60)
    refused = await post(gateway, *REQUESTS["chat"], "other")
    assert refused.status_code == 429 and refused.headers["retry-after"] == "30"
    assert "already downloading org/repo:q8_0; try again later" in message(refused)
    same = asyncio.create_task(post(gateway, *REQUESTS["chat completions"]))
    puller.go_on.set()
    assert [(await each).status_code for each in (first, same)] == [200, 200]
    assert (await post(gateway, *REQUESTS["chat"], "other")).status_code == 200


async def test_official_clients(gateway: RunningGateway, puller: SteppedPuller) -> None:
    threading.Timer(0.1, puller.go_on.set).start()
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        whole = await client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hi"}])
    assert whole.choices[0].message.content == "Hello!"
    chat = ollama.AsyncClient(host=gateway.url)
    assert (await chat.chat(model="qwen3:0.6b", messages=HELLO)).message.content == "Hello!"
    await chat.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped
    assert {model.name for model in ModelStore(puller.file.parent).list()} == {"org/repo:q8_0", "qwen3:0.6b"}
