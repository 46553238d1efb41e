"""Tests of the sampling parameters that reach the scheduler if a request omits them: each source, both dialects, every route."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CATALOGUE, CatalogueEntry
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.store import ModelStore
from protos.v1 import types_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.tiny_checkpoint import write_tiny_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf

USER = {"role": "user", "content": "Hi"}
# A request to each route, without sampling parameters.
OPENAI_ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/completions": {"prompt": "Hi"},
}
OLLAMA_ROUTES: Mapping[str, Mapping[str, Any]] = {
    "/api/chat": {"model": "mine", "messages": [USER], "stream": False},
    "/api/generate": {"model": "mine", "prompt": "Hi", "stream": False},
}
ROUTES = {**OPENAI_ROUTES, **OLLAMA_ROUTES}
OPENAI_NAMES = {"repeat_penalty": "repetition_penalty", "num_predict": "max_tokens"}
WINDOW = 512
Sources = Mapping[str, Mapping[str, Any]]


@asynccontextmanager
async def gateway_with(
    directory: Path,
    *,
    modelfile: Mapping[str, Any] | None = None,
    catalogue: Mapping[str, Any] | None = None,
    gguf: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    """Run a gateway with a model named `mine`, which has these parameters from these sources."""
    weights = write_tiny_gguf(directory / "weights.gguf", sampling=gguf)
    store = ModelStore(directory)
    editor = ModelEditor(store, BlobStore(directory))
    own = ModelSettings(parameters=modelfile or {})
    editor.create_from_files("mine", {"w.gguf": weights}, own, lambda status: None)
    entry = with_digest(CATALOGUE[0], store.get("mine").digest, catalogue or {})
    async with running_gateway(directory, model="mine", catalogue=(entry,), **settings) as running:
        yield running


def with_digest(entry: CatalogueEntry, digest: str, parameters: Mapping[str, Any]) -> CatalogueEntry:
    """Return the entry for a file with this digest."""
    assert entry.wheel is not None
    return replace(entry, source=replace(entry.wheel, sha256=digest), parameters=parameters)


def asking(route: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if route in OLLAMA_ROUTES:
        return {**OLLAMA_ROUTES[route], "options": dict(options)}
    return {**OPENAI_ROUTES[route], **{OPENAI_NAMES.get(name, name): value for name, value in options.items()}}


async def ask(gateway: RunningGateway, route: str, **options: Any) -> types_pb2.SamplingParams:
    response = await gateway.http.post(route, json=asking(route, options))
    assert response.status_code == 200, response.text
    return gateway.scheduler.requests[-1].sampling


def rounded(sampling: types_pb2.SamplingParams, *names: str) -> tuple[float, ...]:
    return tuple(round(getattr(sampling, name), 6) for name in names)


@pytest.mark.parametrize("route", ROUTES)
async def test_each_source_and_what_stands_before_it(short_path: Path, route: str) -> None:
    sources: Sources = {
        "gguf": {"temp": 0.3, "top_p": 0.3, "min_p": 0.3, "penalty_repeat": 1.3},
        "catalogue": {"temperature": 0.4, "top_p": 0.4, "min_p": 0.4},
        "modelfile": {"temperature": 0.5, "top_p": 0.5},
    }
    async with gateway_with(short_path, **sources) as gateway:
        sampling = await ask(gateway, route, temperature=0.6)
        assert rounded(sampling, "temperature", "top_p", "min_p", "repetition_penalty") == (0.6, 0.5, 0.4, 1.3)
        # A null counts as omitted.
        sampling = await ask(gateway, route, temperature=None, top_p=None, min_p=None)
        assert rounded(sampling, "temperature", "top_p", "min_p") == (0.5, 0.5, 0.4)
        # Temperature 0 is only greedy: the model's penalty still applies unless the request sets one.
        assert rounded(await ask(gateway, route, temperature=0), "temperature", "repetition_penalty") == (0, 1.3)
        neutral = await ask(gateway, route, temperature=0, repeat_penalty=1)
        assert rounded(neutral, "temperature", "repetition_penalty") == (0, 1)


@pytest.mark.parametrize("route", ROUTES)
async def test_neutral_leaves_only_the_modelfile(short_path: Path, route: str) -> None:
    sources: Sources = {
        "gguf": {"temp": 0.3, "top_p": 0.3},
        "catalogue": {"temperature": 0.4, "num_predict": 3},
        "modelfile": {"min_p": 0.5},
    }
    async with gateway_with(short_path, sampling_defaults="neutral", **sources) as gateway:
        sampling = await ask(gateway, route)
        expected = (1.0, 1.0, 0.5) if route in OPENAI_ROUTES else (0.8, 0.9, 0.5)
        assert rounded(sampling, "temperature", "top_p", "min_p") == expected
        assert (sampling.top_k, sampling.repetition_window) == ((0, 0) if route in OPENAI_ROUTES else (40, 64))
        assert sampling.max_tokens == (16 if route == "/v1/completions" else WINDOW - num_prompt_tokens(gateway))


def num_prompt_tokens(gateway: RunningGateway) -> int:
    return len(gateway.scheduler.requests[-1].prompt_token_ids)


@pytest.mark.parametrize("route", ROUTES)
async def test_generation_config_of_a_checkpoint(short_path: Path, route: str) -> None:
    config = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05, "max_new_tokens": 30}
    wrong = {"min_p": 7, "presence_penalty": "much", "frequency_penalty": float("nan")}
    checkpoint = write_tiny_checkpoint(short_path / "mine", {**config, **wrong})
    async with running_gateway(short_path, model=str(checkpoint)) as gateway:
        sampling = await ask(gateway, route)
    assert rounded(sampling, "temperature", "top_p", "repetition_penalty", "min_p") == (0.6, 0.95, 1.05, 0)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.top_k) == (0, 0, 20)
    assert sampling.max_tokens == (16 if route == "/v1/completions" else 30)


@pytest.mark.parametrize("route", ROUTES)
async def test_all_that_a_modelfile_names_holds_on_every_route(short_path: Path, route: str) -> None:
    own = {
        "top_k": 7,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repeat_penalty": 1.5,
        "repeat_last_n": 32,
        "seed": 11,
        "num_predict": 20,
        "stop": ["b"],
    }
    async with gateway_with(short_path, modelfile=own) as gateway:
        sampling = await ask(gateway, route)
        assert (sampling.top_k, sampling.presence_penalty, sampling.frequency_penalty) == (7, 0.5, -0.5)
        assert (sampling.repetition_penalty, sampling.repetition_window) == (1.5, 32)
        assert (sampling.seed, sampling.max_tokens) == (11, 20)
        assert (await ask(gateway, route, seed=12, num_predict=5)).seed == 12
        assert gateway.scheduler.requests[-1].sampling.max_tokens == 5


@pytest.mark.parametrize("route", ROUTES)
async def test_a_modelfiles_stop_string_ends_every_answer(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, modelfile={"stop": ["lo"]}) as gateway:
        cases: tuple[tuple[Mapping[str, Any], str], ...] = (
            ({}, "Hel"),
            ({"stop": ["l"]}, "He"),
            ({"stop": []}, "Hello!"),
        )
        for options, text in cases:
            body = (await gateway.http.post(route, json=asking(route, options))).json()
            assert answer(body) == text, options


def answer(body: Mapping[str, Any]) -> str:
    if "choices" in body:
        choice = body["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    return str(body["message"]["content"] if "message" in body else body["response"])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(("window", "expected"), [(0, (1.0, 0)), (-1, (1.5, 0)), (5, (1.5, 5))])
async def test_repeat_last_n(short_path: Path, route: str, window: int, expected: tuple[float, int]) -> None:
    async with gateway_with(short_path, modelfile={"repeat_penalty": 1.5, "repeat_last_n": window}) as gateway:
        sampling = await ask(gateway, route)
        assert (sampling.repetition_penalty, sampling.repetition_window) == expected


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("limit", [-1, -2])
async def test_no_limit_is_a_limit_that_was_named(short_path: Path, route: str, limit: int) -> None:
    async with gateway_with(short_path, modelfile={"num_predict": limit}, default_max_tokens=9) as gateway:
        assert (await ask(gateway, route)).max_tokens == WINDOW - num_prompt_tokens(gateway)
        assert (await ask(gateway, route, num_predict=4)).max_tokens == 4


@pytest.mark.parametrize("route", ROUTES)
async def test_limits_in_their_order(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, catalogue={"num_predict": 40}, default_max_tokens=30) as gateway:
        assert (await ask(gateway, route)).max_tokens == 30
        assert (await ask(gateway, route, num_predict=300)).max_tokens == 300
    async with gateway_with(short_path, catalogue={"num_predict": 40}, modelfile={"num_predict": 20}) as gateway:
        assert (await ask(gateway, route)).max_tokens == 20


@pytest.mark.parametrize("route", ROUTES)
async def test_a_recommended_limit_shortens_chats_and_leaves_completions_theirs(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, catalogue={"num_predict": 40}) as gateway:
        assert (await ask(gateway, route)).max_tokens == (16 if route == "/v1/completions" else 40)


@pytest.mark.parametrize("route", ROUTES)
async def test_num_ctx_limits_the_window_everywhere(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, modelfile={"num_ctx": 64, "num_predict": -1}) as gateway:
        assert (await ask(gateway, route)).max_tokens == 64 - num_prompt_tokens(gateway)
        num_tokens = num_prompt_tokens(gateway) + 98
        long = json.loads(json.dumps(asking(route, {})).replace("Hi", "x" * 100))
        response = await gateway.http.post(route, json=long if route in OPENAI_ROUTES else long | {"truncate": False})
        assert response.status_code == 400
        assert "64 tokens" in response.text and f"{num_tokens} tokens" in response.text
        described = (await gateway.http.get("/v1/models/mine")).json()
        assert described["max_model_len"] == 64


@pytest.mark.parametrize("route", OPENAI_ROUTES)
async def test_a_default_limit_gives_way_to_a_minimum_that_was_asked(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, default_max_tokens=10) as gateway:
        sampling = await ask(gateway, route, min_tokens=30)
        assert (sampling.min_tokens, sampling.max_tokens) == (30, 30)
        response = await gateway.http.post(route, json=asking(route, {"min_tokens": 30, "num_predict": 20}))
        assert response.status_code == 400 and "min_tokens" in response.text


@pytest.mark.parametrize("route", OPENAI_ROUTES)
async def test_a_default_limit_leaves_room_for_a_prompt_that_is_cut(short_path: Path, route: str) -> None:
    async with gateway_with(short_path, default_max_tokens=100_000) as gateway:
        long = json.loads(json.dumps({**OPENAI_ROUTES[route], "truncate_prompt_tokens": -1}).replace("Hi", "x" * 900))
        assert (await gateway.http.post(route, json=long)).status_code == 200
        assert num_prompt_tokens(gateway) == WINDOW // 2
        assert (await gateway.http.post(route, json={**long, "max_tokens": 500})).status_code == 200
        assert num_prompt_tokens(gateway) == WINDOW - 500


@pytest.mark.parametrize("route", ROUTES)
async def test_wrong_values_of_a_model_fail_no_request(
    short_path: Path, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    gguf = {"temp": -1.0, "top_p": 3.0, "top_k": 2.5, "min_p": "small", "mirostat": 2, "penalty_repeat": float("nan")}
    async with gateway_with(short_path, gguf=gguf) as gateway:
        manifest = short_path / "models" / "mine" / "latest" / "manifest.json"
        assert manifest.exists()
        sampling = await ask(gateway, route)
        await ask(gateway, route)
    expected = (1.0, 1.0, 1.0) if route in OPENAI_ROUTES else (0.8, 0.9, 1.0)
    assert rounded(sampling, "temperature", "top_p", "repetition_penalty") == expected
    reasons = [vars(record)["reason"] for record in caplog.records if record.message == "sampling value ignored"]
    assert reasons == [
        "gguf: temperature must be between 0 and 1000 (got -1.0)",
        "gguf: top_k must be a whole number (got 2.5)",
        "gguf: top_p must be above 0 and at most 1 (got 3.0)",
        "gguf: min_p must be a number (got 'small')",
        "gguf: repeat_penalty must be a number (got nan)",
        "general.sampling.mirostat = 2 is not supported",
    ]


async def test_wrong_values_in_a_manifest_fail_no_request(short_path: Path) -> None:
    wrong = {"temperature": 9.0, "num_predict": 0, "stop": [""], "num_ctx": -5, "seed": 1.5, "top_k": 3}
    async with gateway_with(short_path, modelfile=wrong) as gateway:
        for route in ROUTES:
            assert (await ask(gateway, route)).top_k == 3


@pytest.mark.parametrize("route", ROUTES)
async def test_the_log_line_of_a_request_says_what_applied(
    short_path: Path, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sources: Sources = {"catalogue": {"temperature": 0.25, "top_p": 0.5}, "modelfile": {"stop": ["secret"]}}
    async with gateway_with(short_path, default_max_tokens=20, **sources) as gateway:
        await ask(gateway, route, seed=7, top_p=0.75)
    (line,) = [vars(record) for record in caplog.records if record.message == "request finished"]
    assert {"temperature": 0.25, "top_p": 0.75, "seed": 7, "num_predict": 20, "stop": 1}.items() <= line[
        "sampling"
    ].items()
    assert line["sampling"]["top_k"] == (0 if route in OPENAI_ROUTES else 40)
    assert {source: sorted(names, reverse=True) for source, names in line["sampling_from"].items()} == {
        "request": ["top_p", "seed"],
        "modelfile": ["stop"],
        "server": ["num_predict"],
        "catalogue": ["temperature"],
    }
    assert "secret" not in str(line["sampling"])


async def test_both_dialects_show_what_applies(short_path: Path) -> None:
    sources: Sources = {"catalogue": {"temperature": 0.25, "repeat_penalty": 1.5}, "modelfile": {"num_predict": 9}}
    async with gateway_with(short_path, **sources) as gateway:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
            (listed,) = (await client.models.list()).data
        async with ollama.AsyncClient(gateway.url) as api:
            shown = await api.show("mine")
        raw = (await gateway.http.post("/api/show", json={"model": "mine"})).json()
    defaults = listed.to_dict()["sampling_defaults"]
    assert isinstance(defaults, dict)
    assert defaults["temperature"] == raw["sampling_defaults"]["temperature"] == {"value": 0.25, "source": "catalogue"}
    assert defaults["repetition_penalty"] == {"value": 1.5, "source": "catalogue"}
    assert defaults["max_tokens"] == raw["sampling_defaults"]["num_predict"] == {"value": 9, "source": "modelfile"}
    assert defaults["top_k"] == {"value": 0, "source": "api"}
    assert raw["sampling_defaults"]["top_k"] == {"value": 40, "source": "api"}
    assert (shown.parameters or "").split() == ["num_predict", "9", "temperature", "0.25", "repeat_penalty", "1.5"]


async def test_a_model_made_from_another_keeps_its_recommendations(short_path: Path) -> None:
    async with gateway_with(short_path, catalogue={"temperature": 0.25, "min_p": 0.5}) as gateway:
        created = await gateway.http.post(
            "/api/create", json={"model": "child", "from": "mine", "parameters": {"min_p": 0.125}}
        )
        assert created.status_code == 200
        shown = (await gateway.http.post("/api/show", json={"model": "child"})).json()["sampling_defaults"]
    assert shown["temperature"] == {"value": 0.25, "source": "catalogue"}
    assert shown["min_p"] == {"value": 0.125, "source": "modelfile"}
