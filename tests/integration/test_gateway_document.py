"""The OpenAPI document of both APIs: it is whole, and no request made from it ends in a status of 500 or above."""

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from gateway.app import ROUTERS
from gateway.http.api_document import api_document
from tests.fakes.gateway import running_gateway

# Readiness may truthfully answer with 503: the news of the scheduler's health arrives a moment after the session.
OPERATIONS = [
    (path, method)
    for path, methods in api_document([route for router in ROUTERS for route in router.routes], "test")["paths"].items()
    for method in methods
    if path != "/ready"
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a gateway in a thread of its own: Schemathesis waits for each answer in this one."""
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
def document(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_makes_the_server_fail(document: Any, path: str, method: str) -> None:
    @settings(max_examples=12, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(document[path][method].as_strategy())
    def send(case: Any) -> None:
        case.call_and_validate(checks=[not_a_server_error])

    send()


def test_the_document_has_both_dialects(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json", timeout=200).json()
    for path in ("/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate", "/api/create"):
        reference = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        properties = document["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
        assert "model" in properties
    assert httpx.get(f"{url}/docs", timeout=200).status_code == 200
