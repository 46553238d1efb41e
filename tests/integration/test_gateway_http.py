"""Tests of HTTP itself: HEAD, HTTP/1.0, doubled slashes, preflights, encodings, and SDKs that retry."""

import asyncio
import gzip
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import orjson
import pytest
import pytest_asyncio

from tests.fakes.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def shared_gateway() -> AsyncIterator[RunningGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with running_gateway(Path(directory)) as running:
            yield running


OPERATIONS = ("/", "/health", "/ready", "/ping", "/version", "/metrics", "/queue", "/openapi.json")
LISTS = ("/v1/models", "/v1/models/", "/v1/models/tiny", "/api/tags", "/api/ps", "/api/version")


@pytest.mark.parametrize("path", [*OPERATIONS, *LISTS])
async def test_head_is_get_without_a_body(gateway: RunningGateway, path: str) -> None:
    whole, head = await gateway.http.get(path), await gateway.http.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"") == (200, b"")
    assert head.headers.get("content-type") == whole.headers.get("content-type")


@pytest.mark.parametrize(("path", "status"), [("/api/chat", 405), ("/v1/chat/completions", 405), ("/nothing", 404)])
async def test_head_where_there_is_no_get(gateway: RunningGateway, path: str, status: int) -> None:
    assert (await gateway.http.head(path)).status_code == status


async def exchange(gateway: RunningGateway, version: str, path: str, body: dict[str, Any]) -> tuple[str, bytes]:
    """Return the raw head and body of an answer, read until the server closes the connection."""
    url = httpx.URL(gateway.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    content = orjson.dumps(body)
    head = (
        f"POST {path} HTTP/{version}\r\nhost: {url.host}\r\nconnection: close\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    answer_head, _, answer_body = answer.partition(b"\r\n\r\n")
    return answer_head.decode().lower(), answer_body


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
async def test_http_1_0_has_no_chunks(gateway: RunningGateway, path: str, stream: bool) -> None:
    head, body = await exchange(gateway, "1.0", path, CHAT | {"stream": stream})
    assert head.startswith("http/1.1 200") and "transfer-encoding" not in head
    assert ("content-length" in head) is not stream
    if stream:
        ending = b"data: [DONE]\n\n" if path.startswith("/v1") else b"}\n"
        assert body.startswith(b"data: {" if path.startswith("/v1") else b"{") and body.endswith(ending)
    else:
        assert orjson.loads(body)["model"] == "tiny"


async def test_http_1_1_has_chunks(gateway: RunningGateway) -> None:
    head, body = await exchange(gateway, "1.1", "/api/chat", CHAT)
    assert "transfer-encoding: chunked" in head and body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["//api/chat", "/api//chat", "///v1/chat/completions", "/v1//chat///completions"])
async def test_doubled_slashes_mean_one(gateway: RunningGateway, path: str) -> None:
    head, body = await exchange(gateway, "1.1", path, CHAT | {"stream": False})
    assert head.startswith("http/1.1 200"), body


@pytest.mark.parametrize(("path", "is_ollama"), [("//api/nothing", True), ("//v1/nothing", False)])
async def test_errors_of_doubled_slashes_have_the_dialects_shape(
    gateway: RunningGateway, path: str, is_ollama: bool
) -> None:
    head, body = await exchange(gateway, "1.1", path, {})
    assert head.startswith("http/1.1 404")
    assert isinstance(orjson.loads(body)["error"], str) is is_ollama


async def preflight(gateway: RunningGateway, origin: str) -> httpx.Response:
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type",
        "access-control-request-private-network": "true",
    }
    return await gateway.http.options("/api/chat", headers=headers)


async def test_a_preflight_that_asks_for_the_private_network(gateway: RunningGateway) -> None:
    allowed = await preflight(gateway, "http://localhost:3000")
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-private-network"] == "true"
    refused = await preflight(gateway, "https://evil.example")
    assert refused.status_code == 403
    assert "access-control-allow-private-network" not in refused.headers


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (gzip.compress(orjson.dumps(CHAT), mtime=0), {"content-encoding": "gzip"}, 415, "Content-Encoding: gzip"),
        (orjson.dumps(CHAT), {"content-encoding": "br"}, 415, "Content-Encoding: br"),
        (gzip.compress(orjson.dumps(CHAT), mtime=0), {}, 400, "compressed by gzip"),
        ('{"model": "größe"}'.encode("latin-1"), {}, 400, "UTF-8 text: byte 0xf6 at position 13"),
        ('{"model": "größe"}'.encode("utf-16"), {}, 400, "UTF-8"),
        (b'{"model": "\\ud83d"}', {}, 400, "valid JSON"),
    ],
    ids=str,
)
async def test_a_body_that_is_no_utf_8(
    gateway: RunningGateway, path: str, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    response = await gateway.http.post(path, content=content, headers=headers)
    assert response.status_code == status
    assert words in response.text


async def test_identity_is_no_encoding(gateway: RunningGateway) -> None:
    response = await gateway.http.post("/api/chat", json=CHAT, headers={"content-encoding": "identity"})
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, None])
async def test_usage_is_null_until_the_last_chunk(
    gateway: RunningGateway, path: str, options: dict[str, bool] | None
) -> None:
    prompt = {"prompt": "Hi"} if path == "/v1/completions" else {"messages": CHAT["messages"]}
    response = await gateway.http.post(path, json=prompt | {"stream": True, "stream_options": options})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    *chunks, last = [orjson.loads(line) for line in lines[:-1]]
    if options == {"include_usage": True}:
        assert all(chunk["usage"] is None for chunk in chunks)
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)
    else:
        assert all("usage" not in chunk for chunk in (*chunks, last))


Call = Callable[[openai.AsyncOpenAI], Awaitable[Any]]
NOT_THERE: dict[str, Call] = {
    "embeddings": lambda client: client.embeddings.create(model="tiny", input="Hi"),
    "conversations": lambda client: client.conversations.create(),
    "a response": lambda client: client.responses.retrieve("resp_1"),
    "moderations": lambda client: client.moderations.create(input="Hi"),
    "images": lambda client: client.images.generate(prompt="Hi"),
    "speech": lambda client: client.audio.speech.create(model="tiny", voice="alloy", input="Hi"),
    "files": lambda client: client.files.list(),
    "a file": lambda client: client.files.retrieve("file-1"),
    "deleting a file": lambda client: client.files.delete("file-1"),
    "batches": lambda client: client.batches.list(),
    "fine-tuning": lambda client: client.fine_tuning.jobs.list(),
    "vector stores": lambda client: client.vector_stores.list(),
}


@pytest.mark.parametrize("name", NOT_THERE)
async def test_openais_client_asks_once_for_what_is_not_there(gateway: RunningGateway, name: str) -> None:
    sent: list[Any] = []

    async def count(request: Any) -> None:
        sent.append(request)

    async with openai.DefaultAsyncHttpxClient(event_hooks={"request": [count]}) as http:
        client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http)
        with pytest.raises(openai.NotFoundError):
            await NOT_THERE[name](client)
    assert len(sent) == 1


async def test_ollamas_client_hears_what_is_not_there(gateway: RunningGateway) -> None:
    async with ollama.AsyncClient(gateway.url) as client:
        with pytest.raises(ollama.ResponseError, match="Embeddings are not supported") as refusal:
            await client.embed("tiny", "Hi")
        assert refusal.value.status_code == 404
