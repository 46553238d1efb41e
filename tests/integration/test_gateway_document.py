"""The OpenAPI document of both APIs: it is complete, it describes the replies, and no request made from it fails the server.

Every reply of the gateways in this folder's tests is validated against it as well (tests/fakes/documented_replies.py).
"""

import asyncio
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import orjson
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from gateway.app import ROUTERS, document
from gateway.http.bodies import JSONBody
from gateway.http.schema import Schema
from tests.fakes.documented_replies import DocumentedReplies, Reply, reply_validator, violations
from tests.fakes.gateway import running_gateway

# /ready may rightly answer 503: the scheduler's health becomes known a moment after the session is open.
OPERATIONS = [(path, method) for path, methods in document()["paths"].items() for method in methods if path != "/ready"]

BODIES = [
    schema
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for dependency in route.dependant.dependencies
    if isinstance(dependency.call, JSONBody)
    for schema in dependency.call.schemas[:1]  # the page shows the example of the first
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run a gateway in a thread of its own, since Schemathesis waits for each reply in this one, and yield its URL."""
    ready, stop = threading.Event(), threading.Event()
    addresses: list[str] = []

    async def serve() -> None:
        with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
            async with running_gateway(Path(directory)) as gateway:
                await gateway.app.state.gateway.schedulers.get_load()
                addresses.append(gateway.url)
                ready.set()
                await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(200)
    yield addresses[0]
    stop.set()
    thread.join()


@pytest.fixture(scope="module")
def requests(url: str) -> Any:
    """Return the strategies that make requests from the document."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_makes_the_server_fail(requests: Any, path: str, method: str) -> None:
    @settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(requests[path][method].as_strategy())
    def send(case: Any) -> None:
        case.call_and_validate(checks=[not_a_server_error])

    send()


def test_the_page_loads_everything_from_this_server(url: str) -> None:
    page = httpx.get(f"{url}/docs", timeout=200)
    quoted = re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)""", page.text)
    assert len(quoted) == 4  # the style, the icon, the script and the document
    for address in quoted:
        absolute = httpx.URL(f"{url}/docs").join(address)
        assert absolute.host == "127.0.0.1" and httpx.get(absolute, timeout=200).status_code == 200
    assert "//" not in "".join(re.findall(r"""["'][^"']*//[^"']*["']""", page.text))
    style = httpx.get(f"{url}/docs/assets/swagger-ui.css", timeout=200).text
    assert all(address.startswith("data:") for address in re.findall(r"""url\(["']?([^"')]*)""", style))
    assert "@import" not in style
    # A browser refuses whatever the script itself might load from elsewhere.
    assert page.headers["content-security-policy"].startswith("default-src 'self';")


def test_the_server_gives_out_the_document(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json", timeout=200).json() == document()


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate", "/api/create"]
)
def test_request_fields_are_documented(path: str) -> None:
    reference = document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert "model" in document()["components"]["schemas"][reference.rpartition("/")[2]]["properties"]


def test_every_schema_is_valid_and_used() -> None:
    schemas = document()["components"]["schemas"]
    referenced = set(re.findall(r'"#/components/schemas/([^"]+)"', orjson.dumps(document()).decode()))
    assert referenced == set(schemas)
    for name, schema in schemas.items():
        assert jsonschema_rs.meta.is_valid(schema), name
        assert "__" not in name, f"{name}: two models have the same name"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_example_of_a_body_is_valid(body: type[Schema]) -> None:
    [example] = document()["components"]["schemas"][body.__name__]["examples"]
    assert not body.unknown_fields(example)
    assert body.parse_body(example).model_dump(exclude_unset=True, by_alias=True) == example


def test_every_operation_is_described() -> None:
    operations = [operation for by_method in document()["paths"].values() for operation in by_method.values()]
    tags = {tag["name"] for tag in document()["tags"]}
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["summary"] and operation["description"].endswith((".", "`."))
        assert set(operation["tags"]) <= tags
        # A validation error of FastAPI's own cannot happen: no handler has parameters that could be invalid.
        assert "422" not in operation["responses"] and "500" in operation["responses"]


def test_operations_document_their_keys() -> None:
    paths = document()["paths"]
    assert set(document()["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    assert "401" in paths["/api/chat"]["post"]["responses"] and "security" not in paths["/api/chat"]["post"]
    assert "401" not in paths["/health"]["get"]["responses"] and paths["/health"]["get"]["security"] == []
    assert "the scope `admin`" in paths["/api/pull"]["post"]["description"]


CHAT, STREAM = "/v1/chat/completions", "text/event-stream"
CHUNK = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "tiny",
    "system_fingerprint": None,
    "choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": None, "finish_reason": None}],
}
OPENAI_ERROR = {"error": {"message": "no", "type": "x", "param": None, "code": None}}


def problems(method: str, path: str, status: int, media_type: str, body: bytes) -> list[str]:
    """Return what the check that all tests of this folder use says of a reply."""
    reply = Reply({"type": "http", "method": method, "path": path})
    headers = [(b"content-type", media_type.encode())] if media_type else []
    reply.add_message({"type": "http.response.start", "status": status, "headers": headers})
    reply.add_message({"type": "http.response.body", "body": body})
    return list(reply_validator().problems(reply))


def event(*objects: Any) -> bytes:
    return b"".join(b"data: " + orjson.dumps(each) + b"\n\n" for each in objects)


@pytest.mark.parametrize(
    ("method", "path", "status", "media_type", "body"),
    [
        pytest.param("GET", "/version", 200, "application/json", b'{"version": "1"}', id="object"),
        pytest.param("HEAD", "/version", 200, "application/json", b'{"version": "1"}', id="HEAD of a GET"),
        pytest.param("POST", CHAT, 400, "application/json", orjson.dumps(OPENAI_ERROR), id="error"),
        pytest.param("GET", "/nothing", 404, "application/json", orjson.dumps(OPENAI_ERROR), id="unknown path"),
        pytest.param("GET", "/", 200, "text/plain", b"Ollama is running", id="text"),
        pytest.param("POST", "/api/copy", 200, "", b"", id="empty"),
        pytest.param("POST", CHAT, 200, STREAM, b": waiting\n\n" + event(CHUNK) + b"data: [DONE]\n\n", id="stream"),
    ],
)
def test_a_documented_reply_passes(method: str, path: str, status: int, media_type: str, body: bytes) -> None:
    assert problems(method, path, status, media_type, body) == []


@pytest.mark.parametrize(
    ("method", "path", "status", "media_type", "body"),
    [
        pytest.param("GET", "/version", 200, "application/json", b'{"version": "1", "x": 1}', id="further field"),
        pytest.param("GET", "/version", 200, "application/json", b"{}", id="missing field"),
        pytest.param("GET", "/version", 200, "application/json", b'{"version": 1}', id="other type"),
        pytest.param("GET", "/version", 200, "text/plain", b'{"version": "1"}', id="other media type"),
        pytest.param("GET", "/version", 202, "application/json", b'{"version": "1"}', id="other status"),
        pytest.param("GET", "/new", 200, "application/json", b"{}", id="other path"),
        pytest.param("DELETE", "/version", 200, "application/json", b'{"version": "1"}', id="other method"),
        pytest.param("POST", "/api/chat", 400, "application/json", orjson.dumps(OPENAI_ERROR), id="other API's error"),
        pytest.param("GET", "/api/no", 404, "application/json", orjson.dumps(OPENAI_ERROR), id="other API's 404"),
        pytest.param("POST", "/api/copy", 200, "application/json", b"{}", id="body where there is none"),
        pytest.param("POST", CHAT, 200, STREAM, event(CHUNK, CHUNK | {"x": 1}), id="further field in a stream"),
        pytest.param("POST", "/api/pull", 200, "application/x-ndjson", b'{"stat": 1}\n', id="wrong line"),
        pytest.param("POST", "/api/pull", 200, "application/x-ndjson", b"success\n", id="line that is not JSON"),
    ],
)
def test_an_undocumented_reply_is_noticed(method: str, path: str, status: int, media_type: str, body: bytes) -> None:
    assert problems(method, path, status, media_type, body)


async def test_replies_of_an_app_are_checked() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"version": "1", "secret": "x"})(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=DocumentedReplies(app))) as http:
        assert (await http.get("http://test/version")).status_code == 200
    [violation] = violations
    violations.clear()
    assert violation.startswith("get /version -> 200 application/json: ") and "'secret' was unexpected" in violation
