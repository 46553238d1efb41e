"""Tests of Go templates over HTTP: at /api/create, in requests, and in models that were pulled with one."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.source import Fetched
from pagoda.models.store import ModelStore
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.tiny_model import CHAT_TEMPLATE, IM_END, IM_START, write_tiny_gguf

USER = {"role": "user", "content": "Hi"}
CHATML = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
BEGUN = [IM_START, *b"user\nHi", IM_END, *b"\n", IM_START, *b"assistant\n"]
UNKNOWN = "{{ .System }}: {{ .Prompt }}"


@pytest.fixture
async def base(short_path: Path) -> AsyncIterator[RunningGateway]:
    """Run a gateway with a model whose files have no template."""
    write_tiny_gguf(short_path / f"{MODEL}.gguf", chat_template=None)
    async with running_gateway(short_path) as running:
        yield running


async def create(gateway: RunningGateway, **fields: Any) -> httpx.Response:
    return await gateway.http.post("/api/create", json={"model": "mine", "from": MODEL, **fields})


async def tokens(gateway: RunningGateway) -> list[int]:
    response = await gateway.http.post("/tokenize", json={"model": "mine", "messages": [USER]})
    assert response.status_code == 200, response.text
    return response.json()["tokens"]  # type: ignore[no-any-return]


def statuses(response: httpx.Response) -> list[str]:
    return [json.loads(line)["status"] for line in response.text.splitlines()]


async def test_a_known_template_writes_the_chats_of_a_model_that_has_none(base: RunningGateway) -> None:
    response = await create(base, template=CHATML)
    assert not [status for status in statuses(response) if "warning" in status]
    assert await tokens(base) == BEGUN
    shown = (await base.http.post("/api/show", json={"model": "mine"})).json()
    assert shown["template"] == CHATML
    assert f'TEMPLATE """{CHATML}"""' in shown["modelfile"]


async def test_the_jinja_of_the_files_is_used_with_a_warning(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    response = await create(gateway, template=UNKNOWN)
    assert statuses(response)[-3:] == [
        "warning: template is a Go template; the Jinja template in the model's own files is used instead",
        "writing manifest",
        "success",
    ]
    with caplog.at_level(logging.WARNING):
        assert await tokens(gateway) == await tokens(gateway) == BEGUN
    assert [record.message for record in caplog.records].count("Go template not used") == 1
    shown = (await gateway.http.post("/api/show", json={"model": "mine"})).json()
    assert shown["template"] == UNKNOWN != CHAT_TEMPLATE


@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_template_is_refused_at_create(base: RunningGateway, stream: bool) -> None:
    response = await create(base, template=UNKNOWN, stream=stream)
    assert response.status_code == 400
    assert response.json()["error"] == (
        "template is a Go template that is not known, and the model's files have none; write it in Jinja"
    )
    assert len((await base.http.get("/api/tags")).json()["models"]) == 1


async def test_a_model_that_was_pulled_with_an_unknown_template_completes(short_path: Path) -> None:
    write_tiny_gguf(short_path / f"{MODEL}.gguf", chat_template=None)
    settings = ModelSettings(template=UNKNOWN)
    remote = RemoteModel(name="mine", source="a registry", version="1", files=(), root="a.gguf", settings=settings)
    fetched = Fetched(files={"a.gguf": short_path / f"{MODEL}.gguf"})
    ModelEditor(ModelStore(short_path), BlobStore(short_path)).put_fetched("mine", remote, fetched)
    async with running_gateway(short_path) as gateway:
        chat = await gateway.http.post("/tokenize", json={"model": "mine", "messages": [USER]})
        assert chat.status_code == 400
        assert "cannot chat: the model's template is a Go template that is not known" in chat.text
        text = await gateway.http.post("/tokenize", json={"model": "mine", "prompt": "Hi"})
        assert text.json()["tokens"] == [*b"Hi"]
        # A model made from it, without a template of its own, is as good as it.
        made = await gateway.http.post("/api/create", json={"model": "child", "from": "mine", "system": "S"})
        assert statuses(made)[-1] == "success"


@pytest.mark.parametrize(
    ("template", "prompt"), [(CHATML, BEGUN), ("{{ .Prompt }}", [*b"Hi"]), ("{{.Prompt}}", [*b"Hi"])]
)
async def test_a_known_template_in_a_request(gateway: RunningGateway, template: str, prompt: list[int]) -> None:
    body = {"model": MODEL, "prompt": "Hi", "stream": False, "template": template}
    response = await gateway.http.post("/api/generate", json=body)
    assert response.status_code == 200, response.text
    assert list(gateway.scheduler.requests[-1].prompt_token_ids) == prompt


async def test_what_a_modelfile_says_only_to_ollama_is_ignored(gateway: RunningGateway) -> None:
    response = await create(gateway, renderer="qwen3", parser="qwen3", requires="0.14.0", draft_files={"a": "b"})
    assert statuses(response)[-1] == "success"
    assert response.headers["x-pagoda-ignored"] == "renderer, parser, requires, draft_files"
