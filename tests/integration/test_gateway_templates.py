"""Tests of chat templates over HTTP: the keys that may send one, thinking, and the errors of broken ones."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from pagoda.api_keys.key_file import KeyEntry, KeyFile, Scope, digest_of
from pagoda.models.errors import ChatTemplateChoiceError
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.tiny_model import IM_END, IM_START, write_tiny_gguf

USER = {"role": "user", "content": "Hi"}
TEMPLATE = "{% for message in messages %}{{ message.role }}={{ message.content }};{% endfor %}"
THINKS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
BEGUN = [IM_START, *b"user\nHi", IM_END, *b"\n", IM_START, *b"assistant\n"]
SYSTEM = [IM_START, *b"system\nS", IM_END, *b"\n"]
NO_THOUGHTS = [*BEGUN, *b"<think>\n\n</think>\n\n"]

Fields = Mapping[str, Any]
Endpoint = tuple[str, Fields]
OPENAI: Endpoint = ("/v1/chat/completions", {"messages": [USER]})
TOKENIZE: Endpoint = ("/tokenize", {"messages": [USER]})
CHAT: Endpoint = ("/api/chat", {"model": MODEL, "messages": [USER], "stream": False})
GENERATE: Endpoint = ("/api/generate", {"model": MODEL, "prompt": "Hi", "stream": False})
TEMPLATE_FIELDS = [(OPENAI, "chat_template"), (TOKENIZE, "chat_template"), (GENERATE, "template")]


def with_template(directory: Path, template: str | None) -> Path:
    write_tiny_gguf(directory / f"{MODEL}.gguf", chat_template=template)
    return directory


@pytest.fixture
async def thinking(short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(with_template(short_path, THINKS)) as running:
        yield running


async def send(gateway: RunningGateway, request: Endpoint, fields: Fields, key: str | None = None) -> httpx.Response:
    path, body = request
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return await gateway.http.post(path, json={**body, **fields}, headers=headers)


def reason(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(
    ("endpoint", "fields", "prompt"),
    [
        (OPENAI, {}, BEGUN),
        (OPENAI, {"reasoning_effort": "none"}, NO_THOUGHTS),
        (OPENAI, {"reasoning_effort": "high"}, BEGUN),
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": False}}, NO_THOUGHTS),
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": True}}, BEGUN),
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": None}}, BEGUN),
        (OPENAI, {"chat_template_kwargs": {"thinking": False}}, NO_THOUGHTS),
        (OPENAI, {"chat_template_kwargs": {"thinking": False, "enable_thinking": None}}, NO_THOUGHTS),
        (OPENAI, {"chat_template_kwargs": {"thinking": True, "enable_thinking": True}}, BEGUN),
        (OPENAI, {"chat_template_kwargs": {}}, BEGUN),
        (OPENAI, {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": False}}, NO_THOUGHTS),
        (CHAT, {}, BEGUN),
        (CHAT, {"think": False}, NO_THOUGHTS),
        (CHAT, {"think": True}, BEGUN),
        (GENERATE, {}, BEGUN),
        (GENERATE, {"think": False}, NO_THOUGHTS),
        (GENERATE, {"think": True}, BEGUN),
        (GENERATE, {"think": False, "template": THINKS}, NO_THOUGHTS),
        (GENERATE, {"think": False, "context": [65]}, [65, IM_END, *b"\n", *NO_THOUGHTS]),
        (GENERATE, {"think": False, "context": [65], "system": "S"}, [65, *SYSTEM, *NO_THOUGHTS]),
    ],
)
async def test_thinking_reaches_the_template(
    thinking: RunningGateway, endpoint: Endpoint, fields: Fields, prompt: list[int]
) -> None:
    response = await send(thinking, endpoint, fields)
    assert response.status_code == 200, response.text
    assert list(thinking.scheduler.requests[-1].prompt_token_ids) == prompt


@pytest.mark.parametrize(("asked", "prompt"), [(None, BEGUN), (True, BEGUN), (False, NO_THOUGHTS)])
async def test_thinking_is_tokenized(thinking: RunningGateway, asked: bool | None, prompt: list[int]) -> None:
    response = await send(thinking, TOKENIZE, {"chat_template_kwargs": {"enable_thinking": asked}})
    assert response.json()["tokens"] == prompt


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (OPENAI, {"reasoning_effort": "none"}),
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": False}}),
        (TOKENIZE, {"chat_template_kwargs": {"enable_thinking": False}}),
        (CHAT, {"think": False}),
        (GENERATE, {"think": False}),
        (GENERATE, {"think": False, "raw": True}),
    ],
)
async def test_no_thinking_is_neutral_where_there_is_none(
    gateway: RunningGateway, endpoint: Endpoint, fields: Fields
) -> None:
    assert (await send(gateway, endpoint, fields)).status_code == 200


@pytest.mark.parametrize(
    ("endpoint", "fields", "message"),
    [
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": True}}, "does not support thinking"),
        (TOKENIZE, {"chat_template_kwargs": {"enable_thinking": True}}, "does not support thinking"),
        (CHAT, {"think": True}, "does not support thinking"),
        (GENERATE, {"think": True}, "does not support thinking"),
        (GENERATE, {"think": True, "template": TEMPLATE}, "does not support thinking"),
        (GENERATE, {"think": True, "raw": True}, "raw mode"),
        (CHAT, {"think": "high"}, "does not support thinking"),
        (GENERATE, {"think": "low"}, "does not support thinking"),
        (CHAT, {"think": "much"}, 'must be true, false, "low", "medium", "high" or "max"'),
        (OPENAI, {"chat_template_kwargs": {"documents": []}}, "'documents' is set by the server"),
        (OPENAI, {"chat_template_kwargs": {"enable_thinking": "no"}}, "must be true or false"),
        (OPENAI, {"chat_template_kwargs": {"thinking": 0}}, "thinking must be true or false"),
        (TOKENIZE, {"chat_template_kwargs": {"thinking": True, "enable_thinking": False}}, "must not differ"),
        (TOKENIZE, {"chat_template_kwargs": {"tools": []}}, "'tools' is set by the server"),
        (
            OPENAI,
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            'must not be "none" together with enable_thinking',
        ),
    ],
)
async def test_thinking_that_cannot_be_is_refused(
    gateway: RunningGateway, endpoint: Endpoint, fields: Fields, message: str
) -> None:
    response = await send(gateway, endpoint, fields)
    assert response.status_code == 400 and message in reason(response)
    assert not gateway.scheduler.requests


@pytest.fixture
def keys(short_path: Path) -> None:
    file = KeyFile(short_path / "keys.json")
    for name, scopes in {"user": (Scope.INFERENCE,), "owner": tuple(Scope)}.items():
        file.add(KeyEntry(name=name, sha256=digest_of(name.encode()), scopes=scopes, created_at=datetime.now(UTC)))


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(("endpoint", "field"), TEMPLATE_FIELDS)
async def test_a_template_in_a_request_needs_the_scope(gateway: RunningGateway, endpoint: Endpoint, field: str) -> None:
    refused = await send(gateway, endpoint, {field: TEMPLATE}, "user")
    assert refused.status_code == 403
    assert "'admin'" in reason(refused) and "--trust-request-chat-template" in reason(refused)
    assert reason(refused).startswith(f"{field}: ")
    assert not gateway.scheduler.requests
    assert (await send(gateway, endpoint, {field: TEMPLATE}, "owner")).status_code == 200
    assert (await send(gateway, endpoint, {field: ""}, "user")).status_code == 200


@pytest.mark.usefixtures("keys")
async def test_the_setting_trusts_every_key(short_path: Path) -> None:
    async with running_gateway(short_path, trust_request_chat_template=True) as gateway:
        for endpoint, field in TEMPLATE_FIELDS:
            assert (await send(gateway, endpoint, {field: TEMPLATE}, "user")).status_code == 200


@pytest.mark.parametrize(("endpoint", "field"), TEMPLATE_FIELDS)
async def test_without_keys_everyone_may_send_a_template(
    gateway: RunningGateway, endpoint: Endpoint, field: str
) -> None:
    assert (await send(gateway, endpoint, {field: TEMPLATE})).status_code == 200
    too_long = await send(gateway, endpoint, {field: "a" * 65_537})
    assert too_long.status_code == 400 and "at most 65536" in reason(too_long)


async def test_a_template_of_a_chat_replaces_the_model_s(gateway: RunningGateway) -> None:
    assert (await send(gateway, OPENAI, {"chat_template": TEMPLATE})).status_code == 200
    assert bytes(gateway.scheduler.requests[0].prompt_token_ids) == b"user=Hi;"
    tokens = (await send(gateway, TOKENIZE, {"chat_template": TEMPLATE})).json()["tokens"]
    assert bytes(tokens) == b"user=Hi;"


async def test_a_template_by_setting_replaces_the_model_s(short_path: Path) -> None:
    file = short_path / "own.jinja"
    file.write_text("{% for message in messages %}{{ message.content }};{% endfor %}")
    async with running_gateway(short_path, chat_template=file) as gateway:
        for endpoint in (OPENAI, CHAT, GENERATE):
            await send(gateway, endpoint, {})
            assert bytes(gateway.scheduler.requests[-1].prompt_token_ids) == b"Hi;"
        shown = (await gateway.http.post("/api/show", json={"model": MODEL})).json()
        assert shown["template"] == file.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [("{% for %}", "Expected an expression"), ("{{ if .System }}{{ end }}", "Go template"), (None, "cannot be read")],
)
async def test_a_wrong_template_by_setting_ends_the_start(short_path: Path, text: str | None, message: str) -> None:
    file = short_path / "own.jinja"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ChatTemplateChoiceError, match=message):
        async with running_gateway(short_path, chat_template=file):
            pass


@pytest.mark.parametrize("endpoint", [OPENAI, TOKENIZE, CHAT, GENERATE])
async def test_a_broken_template_says_why(short_path: Path, endpoint: Endpoint) -> None:
    async with running_gateway(with_template(short_path, "{{ messages | nothing }}")) as gateway:
        response = await send(gateway, endpoint, {})
        assert response.status_code == 400 and "No filter named 'nothing'" in reason(response)
        assert (await gateway.http.post("/v1/completions", json={"prompt": "Hi"})).status_code == 200
        assert (await send(gateway, GENERATE, {"raw": True})).status_code == 200


async def test_a_base_model_completes(short_path: Path) -> None:
    async with running_gateway(with_template(short_path, None)) as gateway:
        assert (await send(gateway, GENERATE, {})).status_code == 200
        thinks = await send(gateway, GENERATE, {"think": True})
        assert thinks.status_code == 400 and "does not support thinking" in reason(thinks)
        chat = await send(gateway, CHAT, {})
        assert chat.status_code == 400 and "has no chat template" in reason(chat)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "Expected an expression"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
        ("{% break %}", "'break' outside loop"),
        ("{% for a in b %}" * 21 + "{% endfor %}" * 21, "too many statically nested blocks"),
        ("a" * 300_000, "at most 262144"),
    ],
)
async def test_a_model_is_not_made_with_a_broken_template(gateway: RunningGateway, template: str, message: str) -> None:
    response = await gateway.http.post("/api/create", json={"model": "mine", "from": MODEL, "template": template})
    assert response.status_code == 400 and message in reason(response)
    assert (await gateway.http.get("/api/tags")).json()["models"][0]["name"].startswith(MODEL)


@pytest.mark.parametrize("template", ["{{ 'a' | center(7) }}", "{{ 'a b' | wordwrap(1) }}", "{{ 'a' | urlize }}"])
async def test_filters_of_transformers_work(gateway: RunningGateway, template: str) -> None:
    assert (await send(gateway, GENERATE, {"template": template})).status_code == 200
