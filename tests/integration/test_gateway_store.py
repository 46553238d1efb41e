"""Tests of Ollama's endpoints for the store: their changes on disk, their answers, and their refusals."""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import pytest
from safetensors.numpy import save_file

from gateway.models import served_models
from pagoda.models.blobs import BlobStore
from pagoda.models.formats.gguf_parts import part_files
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.store import ModelStore
from protos.v1 import inference_pb2
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.tiny_model import CHAT_TEMPLATE, write_tiny_gguf
from tests.integration.test_damaged_models import ABSENT, rewrite
from tests.unit.pagoda.models.test_store import HF_CONFIG, WEIGHTS, write_checkpoint

JINJA = "{% for message in messages %}[{{ message.role }}: {{ message.content }}]{% endfor %}"


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def statuses(response: httpx.Response) -> list[str]:
    return [line["status"] for line in lines(response)]


async def upload(gateway: RunningGateway, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    response = await gateway.http.post(f"/api/blobs/{digest}", content=content)
    assert response.status_code == 201
    return digest


async def create(gateway: RunningGateway, name: str = "mine", **fields: Any) -> httpx.Response:
    response = await gateway.http.post("/api/create", json={"model": name, "from": "tiny", **fields})
    assert response.status_code == 200, response.text
    return response


async def names(gateway: RunningGateway) -> set[str]:
    return {model["name"] for model in (await gateway.http.get("/api/tags")).json()["models"]}


async def show(gateway: RunningGateway, name: str, **fields: Any) -> dict[str, Any]:
    response = await gateway.http.post("/api/show", json={"model": name, **fields})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


async def test_from_an_uploaded_file_to_a_model_and_back(gateway: RunningGateway, short_path: Path) -> None:
    content = write_tiny_gguf(short_path / "other.gguf", seed=1).read_bytes()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (await gateway.http.head(f"/api/blobs/{digest}")).status_code == 404
    assert await upload(gateway, content) == digest
    assert (await gateway.http.head(f"/api/blobs/{digest}")).status_code == 200
    assert (await gateway.http.post(f"/api/blobs/{digest}", content=content)).status_code == 200
    response = await gateway.http.post("/api/create", json={"model": "Mine", "files": {"other.gguf": digest}})
    assert statuses(response) == ["parsing GGUF", "writing manifest", "success"]
    (mine,) = [each for each in (await gateway.http.get("/api/tags")).json()["models"] if each["name"] == "mine:latest"]
    assert (mine["digest"], mine["size"]) == (digest.removeprefix("sha256:"), len(content))
    response = await gateway.http.post("/api/copy", json={"source": "mine", "destination": "yours:1"})
    assert (response.status_code, response.content) == (200, b"")
    assert (await gateway.http.request("DELETE", "/api/delete", json={"model": "mine"})).status_code == 200
    assert await names(gateway) == {"tiny:latest", "yours:1"}


async def test_from_uploaded_parts_to_a_model(gateway: RunningGateway, short_path: Path) -> None:
    first = write_tiny_gguf(short_path / "m.gguf", seed=1, tensors_per_part=8)
    files = {path.name: await upload(gateway, path.read_bytes()) for path in part_files(first)}
    assert len(files) == 3
    response = await gateway.http.post("/api/create", json={"model": "mine", "files": files})
    assert statuses(response) == ["parsing GGUF", "writing manifest", "success"]
    expected = ModelStore(short_path).get(str(first))
    (mine,) = [each for each in (await gateway.http.get("/api/tags")).json()["models"] if each["name"] == "mine:latest"]
    assert (mine["digest"], mine["size"]) == (expected.digest, expected.size_bytes)
    shown = await show(gateway, "mine", verbose=True)
    assert shown["template"] == CHAT_TEMPLATE and len(shown["tensors"]) == 21
    del files["m-00002-of-00003.gguf"]
    refused = await gateway.http.post("/api/create", json={"model": "other", "files": files})
    assert refused.json()["error"].startswith("m-00002-of-00003.gguf is missing: it is part 2 of 3 of the model")


async def test_a_derived_model_shows_what_it_was_given(gateway: RunningGateway) -> None:
    parameters = {"temperature": 0.5, "stop": ["a", "b"], "num_ctx": 128}
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    response = await create(
        gateway,
        system="Be brief.",
        template=JINJA,
        license=["MIT", "more"],
        parameters=parameters,
        messages=messages,
        stream=False,
    )
    assert response.json() == {"status": "success"}
    shown = await show(gateway, "mine")
    assert (shown["system"], shown["template"], shown["messages"]) == ("Be brief.", JINJA, messages)
    assert shown["license"] == "MIT\nmore"
    assert dict(line.split(maxsplit=1) for line in shown["parameters"].splitlines() if "stop" not in line) == {
        "temperature": "0.5",
        "num_ctx": "128",
    }
    assert [line.split() for line in shown["parameters"].splitlines() if "stop" in line] == [
        ["stop", '"a"'],
        ["stop", '"b"'],
    ]
    assert shown["details"]["parent_model"] == "tiny"
    assert 'SYSTEM """Be brief."""' in shown["modelfile"]


async def test_show_has_the_files_metadata_and_tensors_only_when_all_is_wanted(gateway: RunningGateway) -> None:
    shown = await show(gateway, "tiny")
    assert shown["model_info"]["llama.attention.head_count_kv"] == 2
    assert shown["model_info"]["general.parameter_count"] > 0
    assert shown["model_info"]["tokenizer.ggml.tokens"] == [] and "tensors" not in shown
    verbose = await show(gateway, "tiny", verbose=True)
    assert len(verbose["model_info"]["tokenizer.ggml.tokens"]) == 259
    assert {"name": "token_embd.weight", "type": "F32", "shape": [259, 64]} in verbose["tensors"]


def let_scheduler_know(gateway: RunningGateway, short_path: Path, name: str) -> None:
    """Let the scheduler report that a worker has the model in its store."""
    model = ModelStore(short_path).get(name)
    info = inference_pb2.ModelInfo(name=model.name, digest=model.digest, max_model_len=512, num_unloaded_workers=1)
    gateway.scheduler.models.append(info)


async def test_what_is_stored_is_served_if_a_worker_has_it_too(gateway: RunningGateway, short_path: Path) -> None:
    await create(gateway)
    assert [each["id"] for each in (await gateway.http.get("/v1/models")).json()["data"]] == ["tiny"]
    let_scheduler_know(gateway, short_path, "mine")
    assert [each["id"] for each in (await gateway.http.get("/v1/models")).json()["data"]] == ["tiny", "mine:latest"]
    for path, body in (
        ("/api/chat", {"model": "Mine", "messages": [{"role": "user", "content": "x"}]}),
        ("/api/generate", {"model": "mine:latest", "prompt": "x"}),
        ("/v1/completions", {"model": "mine", "prompt": "x"}),
    ):
        assert (await gateway.http.post(path, json=body)).status_code == 200
    assert {request.model for request in gateway.scheduler.requests} == {"mine:latest"}
    assert (
        'vllm:generation_tokens_total{engine="0",model_name="mine:latest"}' in (await gateway.http.get("/metrics")).text
    )


async def test_what_no_worker_can_load_is_unavailable(
    gateway: RunningGateway, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_models, "NEWS_S", 0.0)
    await create(gateway)
    let_scheduler_know(gateway, short_path, "mine")
    gateway.scheduler.models[-1].digest = "of other files"
    for path in ("/api/generate", "/v1/completions"):
        response = await gateway.http.post(path, json={"model": "mine", "prompt": "x"})
        assert response.status_code == 503 and "mine:latest" in response.text


async def test_a_listing_waits_for_no_news(
    gateway: RunningGateway, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing does not wait for a worker: a model deleted while it is listed would delay the others."""
    monkeypatch.setattr(served_models, "NEWS_S", 3600.0)
    await create(gateway)
    assert await gateway.app.state.gateway.models.model_info_if_any(ModelStore(short_path).get("mine")) is None


async def test_a_deleted_model_leaves_memory(gateway: RunningGateway, short_path: Path) -> None:
    await create(gateway)
    let_scheduler_know(gateway, short_path, "mine")
    gateway.scheduler.models[-1].num_workers = 1
    assert (await gateway.http.request("DELETE", "/api/delete", json={"model": "mine"})).status_code == 200
    (let_go,) = gateway.scheduler.kept_loaded
    assert (let_go.model, let_go.keep_alive_s) == ("mine:latest", 0.0)
    running = (await gateway.http.get("/api/ps")).json()["models"]
    assert [each["name"] for each in running] == ["tiny:latest", "mine:latest"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 404, "name is missing"),
        ({"model": "mine"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "mine", "from": "/etc/passwd"}, 404, "'/etc/passwd' is neither a model name nor an existing file"),
        ({"model": "../mine", "from": "tiny"}, 404, "neither a model name"),
        ({"model": "mine", "files": {"a.gguf": "sha256:" + "0" * 64}}, 404, "not found; upload it first"),
        ({"model": "mine", "files": {"a.gguf": "sha256:7"}}, 400, "invalid digest format"),
        ({"model": "mine", "from": "tiny", "files": {"a": "b"}}, 400, "exclude each other"),
        ({"model": "mine", "from": "tiny", "quantize": "q4_K_M"}, 400, "quantize"),
        ({"model": "mine", "from": "tiny", "adapters": {"a": "b"}}, 400, "adapters"),
        ({"model": "mine", "from": "tiny", "modelfile": "FROM x"}, 400, "modelfile"),
        ({"model": "mine", "from": "tiny", "template": "{% for %}"}, 400, "template: "),
        ({"model": "mine", "from": "tiny", "parameters": {"temperature": "hot"}}, 400, "parameters.temperature"),
        (
            {"model": "mine", "from": "tiny", "parameters": {"num_predict": 0}},
            400,
            "parameters.num_predict: num_predict",
        ),
    ],
    ids=str,
)
async def test_creations_that_are_refused(
    gateway: RunningGateway, body: dict[str, Any], status: int, named: str
) -> None:
    response = await gateway.http.post("/api/create", json=body)
    assert response.status_code == status, response.text
    assert named in response.json()["error"]
    assert await names(gateway) == {"tiny:latest"}


UNUSABLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "unknown splitting": (
        {"tokenizer.ggml.pre": "of-tomorrow"},
        {},
        "the pre-tokenizer 'of-tomorrow' is not supported",
    ),
    "unknown tokenizer": ({"tokenizer.ggml.model": "rwkv"}, {}, "the tokenizer 'rwkv' is not supported"),
    "bos outside": ({"tokenizer.ggml.bos_token_id": 4000}, {}, "token 4000 is outside the vocabulary"),
    "no vocabulary": ({"tokenizer.ggml.tokens": ABSENT, "tokenizer.ggml.token_type": ABSENT}, {}, "no vocabulary"),
    "template": ({"tokenizer.chat_template": "{% for %}"}, {}, "the chat template cannot be used"),
    "Go": ({"tokenizer.chat_template": "{{ if .System }}{{ end }}"}, {}, "is a Go template that is not known"),
    "shape": (
        {},
        {"blk.0.attn_q.weight": (32, 64)},
        "'blk.0.attn_q.weight' must have the shape [64, 64] (got [32, 64])",
    ),
    "unknown tensor": ({"llama.block_count": 1}, {}, "tensors that the model does not use: blk.1."),
    "scaling": ({"llama.rope.scaling.type": "other"}, {}, "rope scaling 'other' is not supported"),
    "numbers": ({"llama.logit_scale": 0.5}, {}, "llama.logit_scale = 0.5"),
}


@pytest.mark.parametrize(("metadata", "shapes", "reason"), UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.parametrize("stream", [True, False])
async def test_what_could_not_be_used_is_not_made(
    gateway: RunningGateway,
    short_path: Path,
    metadata: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    reason: str,
    stream: bool,
) -> None:
    whole = write_tiny_gguf(short_path / "whole.gguf")
    digest = await upload(gateway, rewrite(whole, short_path / "unusable.gguf", metadata, shapes).read_bytes())
    body = {"model": "mine", "files": {"a.gguf": digest}, "stream": stream}
    response = await gateway.http.post("/api/create", json=body)
    assert response.status_code == 400
    assert reason in response.json()["error"]
    assert str(short_path) not in response.text
    assert "/" not in response.json()["error"].replace("1 / sqrt", "")
    assert await names(gateway) == {"tiny:latest"}


async def test_a_checkpoint_without_its_tokenizer_or_output(gateway: RunningGateway, short_path: Path) -> None:
    directory = write_checkpoint(short_path / "checkpoint", HF_CONFIG)
    files = {path.name: await upload(gateway, path.read_bytes()) for path in directory.iterdir()}
    response = await gateway.http.post("/api/create", json={"model": "mine", "files": files})
    assert response.status_code == 400
    assert "has no tokenizer.json" in response.json()["error"]
    weights = {name: np.zeros(shape, dtype=np.float16) for name, shape in WEIGHTS.items() if name != "lm_head.weight"}
    save_file(weights, directory / "model.safetensors")
    files["model.safetensors"] = await upload(gateway, (directory / "model.safetensors").read_bytes())
    response = await gateway.http.post("/api/create", json={"model": "mine", "files": files})
    assert response.status_code == 400
    assert "the tensor 'lm_head.weight' is missing" in response.json()["error"]
    assert await names(gateway) == {"tiny:latest"}


async def test_a_damaged_upload(gateway: RunningGateway) -> None:
    response = await gateway.http.post("/api/blobs/sha256:" + "0" * 64, content=b"x")
    assert response.status_code == 400 and "digest mismatch" in response.json()["error"]
    assert (await gateway.http.head("/api/blobs/sha256:7")).status_code == 400
    digest = await upload(gateway, b"no model")
    response = await gateway.http.post("/api/create", json={"model": "mine", "files": {"a.gguf": digest}})
    assert response.status_code == 400 and "model.gguf" in response.json()["error"]


async def test_a_model_named_as_a_blob_is_none(gateway: RunningGateway) -> None:
    """A model named like a blob does not affect the blob of that digest, and the reverse."""
    content = b"content"
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    name = f"blobs:{digest.replace(':', '-')}"
    await create(gateway, name)
    assert (await gateway.http.head(f"/api/blobs/{digest}")).status_code == 404
    assert (await gateway.http.post(f"/api/blobs/{digest}", content=b"other")).status_code == 400
    assert await upload(gateway, content) == digest
    assert (await gateway.http.post("/api/copy", json={"source": "tiny", "destination": name})).status_code == 200
    assert (await gateway.http.request("DELETE", "/api/delete", json={"model": name})).status_code == 200
    assert (await gateway.http.head(f"/api/blobs/{digest}")).status_code == 200


async def test_a_full_disk_is_said_without_a_path(
    gateway: RunningGateway, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(short_path))

    monkeypatch.setattr("pagoda.models.scratch.tempfile.mkdtemp", full)
    for response in (
        await gateway.http.post(f"/api/blobs/sha256:{'0' * 64}", content=b"x"),
        await gateway.http.post("/api/create", json={"model": "mine", "from": "tiny", "stream": False}),
        await gateway.http.post("/api/copy", json={"source": "tiny", "destination": "b"}),
    ):
        assert response.status_code == 500, response.text
        assert "could not be stored: No space left on device" in response.json()["error"]
        assert str(short_path) not in response.text


@pytest.mark.parametrize("body", [{"model": "nope"}, {"model": ""}, {}, {"model": "../tiny"}])
async def test_only_what_is_there_can_be_deleted_or_copied(gateway: RunningGateway, body: dict[str, str]) -> None:
    assert (await gateway.http.request("DELETE", "/api/delete", json=body)).status_code == 404
    copied = await gateway.http.post("/api/copy", json={"source": body.get("model", ""), "destination": "b"})
    assert copied.status_code == 404


async def test_the_served_model_can_be_copied_but_not_taken_away(served_from_store: RunningGateway) -> None:
    http = served_from_store.http
    for method, path, body in (
        ("DELETE", "/api/delete", {"model": "mine"}),
        ("POST", "/api/copy", {"source": "tiny", "destination": "mine"}),
        ("POST", "/api/create", {"model": "mine", "from": "mine", "system": "x"}),
    ):
        response = await http.request(method, path, json=body)
        assert response.status_code == 409 and "being served" in response.json()["error"]
    assert (await http.post("/api/copy", json={"source": "mine", "destination": "b"})).status_code == 200


@pytest.fixture
async def served_from_store(short_path: Path) -> AsyncIterator[RunningGateway]:
    """Run a gateway with a model of the store that has settings of its own."""
    tiny = write_tiny_gguf(short_path / "weights.gguf")
    settings = ModelSettings(
        system="S",
        template=JINJA,
        parameters={"temperature": 0.25, "top_k": 7, "stop": ["!"], "num_predict": 4, "repeat_penalty": 1.5},
        messages=[{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}],
    )
    editor = ModelEditor(ModelStore(short_path), BlobStore(short_path))
    editor.create_from_files("mine", {"w.gguf": tiny}, settings, lambda status: None)
    async with running_gateway(short_path, model="mine") as running:
        yield running


def prompts(gateway: RunningGateway) -> list[str]:
    return [bytes(each for each in request.prompt_token_ids).decode() for request in gateway.scheduler.requests]


async def test_a_models_own_settings_are_honoured(served_from_store: RunningGateway) -> None:
    gateway = served_from_store
    user = [{"role": "user", "content": "x"}]
    await gateway.http.post("/api/generate", json={"model": "mine", "prompt": "x"})
    await gateway.http.post("/api/chat", json={"model": "mine", "messages": user, "options": {"top_k": 3}})
    await gateway.http.post("/v1/chat/completions", json={"messages": user, "temperature": 1.5})
    system = [{"role": "system", "content": "T"}]
    await gateway.http.post("/v1/chat/completions", json={"messages": [*system, *user]})
    examples = "[user: 1][assistant: 2]"
    assert prompts(gateway) == [f"[system: S]{examples}[user: x]"] * 3 + [f"{examples}[system: T][user: x]"]
    samplings = [request.sampling for request in gateway.scheduler.requests]
    assert [each.temperature for each in samplings] == [0.25, 0.25, 1.5, 0.25]
    assert [each.top_k for each in samplings] == [7, 3, 7, 7]
    assert [each.repetition_penalty for each in samplings] == [1.5] * 4
    assert [each.max_tokens for each in samplings[:2]] == [4, 4]


async def test_official_client(gateway: RunningGateway, short_path: Path) -> None:
    client = ollama.AsyncClient(host=gateway.url)
    other = write_tiny_gguf(short_path / "other.gguf", seed=1)
    digest = await client.create_blob(other)
    await client.create(model="mine", files={"other.gguf": digest}, system="Be brief.", parameters={"top_k": 3})
    assert (await client.show("mine")).parameters == f"{'top_k':<30} 3"
    await client.copy("mine", "yours")
    await client.delete("mine")
    assert {model.model for model in (await client.list()).models} == {"tiny:latest", "yours:latest"}
    with pytest.raises(ollama.ResponseError) as caught:
        await client.delete("mine")
    assert caught.value.status_code == 404
    await client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped
