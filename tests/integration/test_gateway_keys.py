"""Tests of API keys over HTTP: the scope of each route, the refusals of each dialect, the forwarded fields, and the log."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest
from fastapi.routing import APIRoute

from gateway.app import ROUTERS
from gateway.http.authorization import needed_scope
from pagoda.api_keys.key_file import KeyEntry, KeyFile, KeyList, Scope, digest_of
from tests.fakes.gateway import MODEL, RunningGateway, running_gateway
from tests.fakes.scheduler import Answer
from tests.fakes.tiny_model import write_tiny_gguf

CREATED = datetime(2026, 1, 31, tzinfo=UTC)
HOLDERS = {"user": (Scope.INFERENCE,), "operator": (Scope.ADMIN,), "owner": tuple(Scope)}
ROUTES = sorted(
    {
        (method, route.path_format)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
)
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def entry(name: str, **values: Any) -> KeyEntry:
    """Return an entry whose key is `key-of-` and its name."""
    return KeyEntry(name=name, sha256=digest_of(f"key-of-{name}".encode()), created_at=CREATED, **values)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer key-of-{name}"}


@pytest.fixture
def keys(short_path: Path) -> KeyFile:
    """Return a file with keys of three tenants (a user, an operator, and both) and with a revoked and an expired key."""
    file = KeyFile(short_path / "keys.json")
    for name, scopes in HOLDERS.items():
        file.add(entry(name, tenant=f"tenant-of-{name}", scopes=scopes))
    file.add(entry("former", scopes=tuple(Scope), revoked_at=CREATED))
    file.add(entry("guest", scopes=tuple(Scope), expires_at=CREATED + timedelta(days=1)))
    return file


@pytest.fixture
async def gateway(short_path: Path, keys: KeyFile) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path) as running:
        yield running


async def status(gateway: RunningGateway, method: str, path: str, headers: dict[str, str]) -> int:
    """Return the status of a request whose body is valid for no route, so that an allowed one changes nothing."""
    return (
        await gateway.http.request(method, path.replace("{digest}", "x"), headers=headers, content=b"[]")
    ).status_code


async def test_each_route_asks_for_its_scope(gateway: RunningGateway) -> None:
    async def check(method: str, path: str) -> None:
        needed = needed_scope(path)
        for name, scopes in HOLDERS.items():
            found = await status(gateway, method, path, bearer(name))
            assert (found == 403) is (needed is not None and needed not in scopes), (method, path, name, found)
            assert found != 401, (method, path, name)
        found = await status(gateway, method, path, {})
        assert (found == 401) is (needed is not None), (method, path, found)

    await asyncio.gather(*(check(method, path) for method, path in ROUTES))


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/assets/swagger-ui.css"])
async def test_the_documentation_needs_a_key(gateway: RunningGateway, path: str) -> None:
    assert await status(gateway, "GET", path, {}) == 401
    assert await status(gateway, "GET", path, bearer("user")) == 200


async def test_what_changes_models_or_shows_everyones_metrics_is_for_admins(gateway: RunningGateway) -> None:
    assert {path for _, path in ROUTES if needed_scope(path) is Scope.ADMIN} == {
        "/api/blobs/{digest}",
        "/api/copy",
        "/api/create",
        "/api/delete",
        "/api/pull",
        "/api/push",
        "/metrics",
        "/queue",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
    }
    assert {path for _, path in ROUTES if needed_scope(path) is None} == {"/", "/health", "/ping", "/ready"}


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [("POST", "/v1/chat/completions", "operator"), ("GET", "/metrics", "user"), ("GET", "/no/such/path", "operator")],
)
async def test_openais_shape(gateway: RunningGateway, method: str, path: str, name: str) -> None:
    unknown = await gateway.http.request(method, path, json={})
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert unknown.json()["error"] == {
        "message": "A valid API key is required: Authorization: Bearer KEY.",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    refused = await gateway.http.request(method, path, json={}, headers=bearer(name))
    assert refused.status_code == 403 and "www-authenticate" not in refused.headers
    error = refused.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("permission_error", None, None)
    assert f"'{name}'" in error["message"] and "scope" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/api/chat", "operator"),
        ("GET", "/api/tags", "operator"),
        ("POST", "/api/pull", "user"),
        ("DELETE", "/api/delete", "user"),
    ],
)
async def test_ollamas_shape(gateway: RunningGateway, method: str, path: str, name: str) -> None:
    unknown = await gateway.http.request(method, path, json={})
    assert (unknown.status_code, unknown.headers["www-authenticate"]) == (401, "Bearer")
    assert unknown.json() == {"error": "A valid API key is required: Authorization: Bearer KEY."}
    refused = await gateway.http.request(method, path, json={}, headers=bearer(name))
    assert refused.status_code == 403 and list(refused.json()) == ["error"] and f"'{name}'" in refused.json()["error"]


async def test_anthropics_shape(gateway: RunningGateway) -> None:
    unknown = await gateway.http.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
    assert unknown.status_code == 401
    assert unknown.json()["type"] == "error" and unknown.json()["error"]["type"] == "authentication_error"
    refused = await gateway.http.post("/v1/messages", json={}, headers={"x-api-key": "key-of-operator"})
    assert refused.status_code == 403 and refused.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-api-key": "key-of-user"}, 200),
        ({"authorization": "bearer  key-of-user"}, 200),
        ({"authorization": "Basic dXNlcjpwYXNz", "x-api-key": "key-of-user"}, 200),
        ({"authorization": "Bearer wrong", "x-api-key": "key-of-user"}, 401),
        ({"authorization": "key-of-user"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer key-of-user key-of-user"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
async def test_where_a_key_is_looked_for(gateway: RunningGateway, headers: dict[str, str], expected: int) -> None:
    assert (await gateway.http.get("/v1/models", headers=headers)).status_code == expected


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags", "/metrics"])
@pytest.mark.parametrize("name", ["stranger", "former", "guest"])
async def test_who_is_not_or_no_longer_known(gateway: RunningGateway, path: str, name: str) -> None:
    assert (await gateway.http.get(path, headers=bearer(name))).status_code == 401


async def test_a_key_in_the_url_is_none(gateway: RunningGateway) -> None:
    assert (await gateway.http.get("/v1/models", params={"api_key": "key-of-user"})).status_code == 401


async def test_the_official_clients(gateway: RunningGateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="key-of-user", max_retries=0) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    assert answer.choices[0].message.content == "Hello!"
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="API key is required"):
            await client.models.list()
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="key-of-operator", max_retries=0) as client:
        with pytest.raises(openai.PermissionDeniedError, match="scope 'inference'"):
            await client.models.list()
    async with ollama.AsyncClient(gateway.url, headers=bearer("user")) as user:
        assert (await user.chat(MODEL, [{"role": "user", "content": "Hi"}])).message.content == "Hello!"
        with pytest.raises(ollama.ResponseError, match="scope 'admin'"):
            await user.delete("other")


# ---- fields that the scheduler gets


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/api/chat", {**CHAT, "stream": False})])
async def test_tenant_and_name_travel_and_the_key_does_not(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert (await gateway.http.post(path, json=body, headers=bearer("user"))).status_code == 200
    (request,) = gateway.scheduler.requests
    assert (request.tenant, request.cache_salt) == ("tenant-of-user", "")
    (line,) = (record.__dict__ for record in caplog.records if record.getMessage() == "request finished")
    assert (line["tenant"], line["key"]) == ("tenant-of-user", "user")
    assert not any("key-of-" in str(vars(record)) for record in caplog.records if record.name.startswith("gateway"))


@pytest.mark.parametrize(
    ("priority", "floor", "scopes", "given"),
    [
        (None, 0, (Scope.INFERENCE,), 0),
        (0, 0, (Scope.INFERENCE,), 0),
        (7, 0, (Scope.INFERENCE,), 7),
        (-1, 0, (Scope.INFERENCE,), None),
        (-(2**31), 0, (Scope.INFERENCE, Scope.ADMIN), None),
        (-1, 0, (Scope.INFERENCE, Scope.PRIORITY), -1),
        (-3, -3, (Scope.INFERENCE,), -3),
        (-4, -3, (Scope.INFERENCE,), None),
        (None, -3, (Scope.INFERENCE,), 0),
        (None, 5, (Scope.INFERENCE,), 5),
        (0, 5, (Scope.INFERENCE,), None),
        (0, 5, (Scope.INFERENCE, Scope.PRIORITY), 0),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_urgent_priority_needs_its_scope(
    gateway: RunningGateway,
    keys: KeyFile,
    priority: int | None,
    floor: int,
    scopes: tuple[Scope, ...],
    given: int | None,
    stream: bool,
) -> None:
    keys.add(entry("asking", scopes=scopes, priority_floor=floor))
    for path, asked in (("/v1/chat/completions", CHAT), ("/v1/completions", {"model": MODEL, "prompt": ["x", "y"]})):
        body = asked | {"priority": priority, "stream": stream}
        response = await gateway.http.post(path, json=body, headers=bearer("asking"))
        if given is None:
            assert response.status_code == 403 and not gateway.scheduler.requests
            message = response.json()["error"]["message"]
            assert "scope 'priority'" in message and "'asking'" in message and str(floor) in message
        else:
            assert response.status_code == 200
            assert {request.priority for request in gateway.scheduler.requests} == {given}


async def test_only_an_admin_ends_what_others_keep_in_memory(gateway: RunningGateway) -> None:
    for name, only_prolongs in (("user", True), ("owner", False)):
        for path in ("/api/chat", "/v1/chat/completions"):
            response = await gateway.http.post(path, json=CHAT | {"keep_alive": 0}, headers=bearer(name))
            assert response.status_code == 200
            request = gateway.scheduler.requests[-1]
            assert (request.keep_alive_s, request.keep_alive_only_prolongs) == (0, only_prolongs)
        load = {"model": MODEL, "keep_alive": "5m"}
        assert (await gateway.http.post("/api/generate", json=load, headers=bearer(name))).status_code == 200
        assert gateway.scheduler.kept_loaded[-1].keep_alive_only_prolongs == only_prolongs
    num_kept_loaded = len(gateway.scheduler.kept_loaded)
    for path in ("/api/chat", "/api/generate"):
        for keep_alive in (0, "0s", "0"):
            unload = {"model": MODEL, "keep_alive": keep_alive}
            response = await gateway.http.post(path, json=unload, headers=bearer("user"))
            assert response.status_code == 403 and "scope 'admin'" in response.json()["error"]
    assert len(gateway.scheduler.kept_loaded) == num_kept_loaded
    response = await gateway.http.post("/api/generate", json={"model": MODEL, "keep_alive": 0}, headers=bearer("owner"))
    assert response.json()["done_reason"] == "unload"


async def test_a_refusal_is_logged_without_the_key(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await gateway.http.get("/metrics", headers={**bearer("user"), "x-request-id": "r-1"})
    await gateway.http.get("/metrics", headers=bearer("stranger"))
    scope, unknown = (vars(record) for record in caplog.records if record.getMessage() == "request refused")
    assert (scope["request_id"], scope["path"]) == ("r-1", "/metrics") and "'user'" in scope["reason"]
    assert "valid API key" in unknown["reason"]
    assert "key-of-" not in str(scope) + str(unknown)


async def test_without_keys_there_is_no_tenant(short_path: Path) -> None:
    async with running_gateway(short_path) as gateway:
        assert (await gateway.http.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert gateway.scheduler.requests[0].tenant == ""
        assert (await gateway.http.get("/metrics")).status_code == 200


async def test_an_isolated_tenant_has_a_cache_of_its_own(gateway: RunningGateway, keys: KeyFile) -> None:
    keys.add(entry("apart", tenant="acme", isolated=True))
    keys.add(entry("apart-2", tenant="acme", isolated=True))
    for name, asked in (("user", None), ("owner", "x"), ("apart", None), ("apart-2", None), ("apart", "x")):
        body = CHAT if asked is None else {**CHAT, "cache_salt": asked}
        assert (await gateway.http.post("/v1/chat/completions", json=body, headers=bearer(name))).status_code == 200
    shared, asked_for, first, second, both = (request.cache_salt for request in gateway.scheduler.requests)
    assert shared == "" and first == second
    assert len({shared, asked_for, first, both}) == 4


# ---- changes while the gateway runs


async def test_a_revoked_key_is_refused_at_once_but_its_open_stream_ends_well(
    gateway: RunningGateway, keys: KeyFile
) -> None:
    gateway.scheduler.answer = lambda *_: Answer(text="Hello", hold_before=2)
    body = {**CHAT, "stream": True}
    async with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer("user")) as response:
        await gateway.scheduler.held.get()
        keys.revoke("user", CREATED)
        refused = await gateway.http.get("/v1/models", headers=bearer("user"))
        assert refused.status_code == 401 and "'user' is revoked" in refused.json()["error"]["message"]
        gateway.scheduler.release.set()
        assert (await response.aread()).endswith(b"data: [DONE]\n\n")


async def test_the_first_key_closes_an_open_gateway_and_a_lost_file_does_not_open_it(short_path: Path) -> None:
    async with running_gateway(short_path) as gateway:
        assert (await gateway.http.get("/v1/models")).status_code == 200
        file = KeyFile(short_path / "keys.json")
        file.add(entry("user"))
        assert (await gateway.http.get("/v1/models")).status_code == 401
        assert (await gateway.http.get("/v1/models", headers=bearer("user"))).status_code == 200
        file.path.unlink()
        assert (await gateway.http.get("/v1/models")).status_code == 401
        assert (await gateway.http.get("/v1/models", headers=bearer("user"))).status_code == 200


async def test_keys_of_the_environment_and_of_a_file_count_together(short_path: Path) -> None:
    listed = KeyList(keys=(entry("listed", tenant="acme"), entry("bye", revoked_at=CREATED))).model_dump_json()
    file = KeyFile(short_path / "elsewhere.json")
    file.add(entry("filed"))
    async with running_gateway(
        short_path, api_key="sesame", keys=listed, keys_file=file.path, host="0.0.0.0", ollama_port=0
    ) as gateway:
        for key, models, metrics in (
            ("sesame", 200, 200),
            ("key-of-listed", 200, 403),
            ("key-of-filed", 200, 403),
            ("key-of-bye", 401, 401),
            ("other", 401, 401),
        ):
            headers = {"authorization": f"Bearer {key}"}
            assert (await gateway.http.get("/v1/models", headers=headers)).status_code == models
            assert (await gateway.http.get("/metrics", headers=headers)).status_code == metrics


# ---- the process


def start(home: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a gateway that is expected to fail at its start."""
    model = write_tiny_gguf(home / f"{MODEL}.gguf")
    command = [sys.executable, "-P", "-m", "gateway", "--home", str(home), "--model", str(model), "--ollama-port", "0"]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=200
    )


@pytest.mark.parametrize("arguments", [(), ("--keys-file", "none.json")])
def test_off_loopback_there_must_be_a_key(short_path: Path, arguments: tuple[str, ...]) -> None:
    refused = start(short_path, "--host", "0.0.0.0", *arguments)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "pagoda key create NAME" in refused.stderr and "PAGODA_GATEWAY_API_KEY" in refused.stderr


def test_a_file_without_keys_is_not_enough_off_loopback(short_path: Path) -> None:
    (short_path / "keys.json").write_text('{"keys": []}')
    refused = start(short_path, "--host", "0.0.0.0")
    assert refused.returncode == 1 and "has no keys" in refused.stderr and "Traceback" not in refused.stderr


def test_a_broken_file_ends_the_start(short_path: Path) -> None:
    (short_path / "keys.json").write_text("{")
    refused = start(short_path)
    assert refused.returncode == 1 and "keys.json is not a list of keys" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_broken_keys_of_the_environment_end_the_start(short_path: Path) -> None:
    refused = start(short_path, PAGODA_GATEWAY_KEYS="pgd_in_plain")
    assert refused.returncode == 2 and "PAGODA_GATEWAY_KEYS" in refused.stderr
    assert "pgd_in_plain" not in refused.stdout + refused.stderr and "Traceback" not in refused.stderr


async def test_what_it_logs_of_its_settings_has_no_keys(short_path: Path) -> None:
    listed = KeyList(keys=(entry("listed"),)).model_dump_json()
    ended = start(short_path, "--model", "none.gguf", PAGODA_GATEWAY_KEYS=listed, PAGODA_GATEWAY_API_KEY="sesame")
    assert "gateway starting" in ended.stderr
    assert "sesame" not in ended.stderr and digest_of(b"key-of-listed") not in ended.stderr
