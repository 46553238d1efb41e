"""Tests of local origins and hosts, as tables, and of the treatment of others."""

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from gateway.http.origins import AllowedOrigins, LocalHostsOnly


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000")


def origins(*more: str) -> ASGIApp:
    return AllowedOrigins(PlainTextResponse("served"), more=more)


LOCAL = [
    "http://localhost",
    "http://localhost:3000",
    "https://127.0.0.1:5173",
    "http://0.0.0.0:1",
    "http://[::1]:80",
    "app://obsidian.md",
    "tauri://localhost",
    "vscode-webview://abc",
    "http://127.0.0.1:8000",
]
FOREIGN = ["https://evil.example", "http://localhost.evil.example", "http://127.0.0.1.evil.example", "null", "x"]


@pytest.mark.parametrize("origin", LOCAL)
async def test_pages_of_this_machine_are_served(origin: str) -> None:
    async with client(origins()) as http:
        response = await http.get("/v1/models", headers={"origin": origin})
        assert response.text == "served"
        preflight = await http.options(
            "/api/chat",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,x-stainless-os",
            },
        )
        assert preflight.status_code == 200
    if origin != "http://127.0.0.1:8000":  # the server's own pages need no permission
        assert response.headers["access-control-allow-origin"] in (origin, "*")
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_other_pages_are_refused_in_the_shape_of_the_dialect(origin: str, method: str) -> None:
    async with client(origins("https://app.example")) as http:
        openai = await http.request(method, "/v1/models", headers={"origin": origin})
        ollama = await http.request(method, "/api/tags", headers={"origin": origin})
    assert openai.status_code == ollama.status_code == 403
    assert openai.json()["error"]["type"] == "permission_error"
    assert "PAGODA_GATEWAY_ALLOWED_ORIGINS" in ollama.json()["error"]


@pytest.mark.parametrize(("allowed", "status"), [("https://app.example/", 200), ("*", 200), ("https://b.example", 403)])
async def test_origins_can_be_added(allowed: str, status: int) -> None:
    async with client(origins(allowed)) as http:
        assert (await http.get("/", headers={"origin": "https://App.example"})).status_code == status


async def test_what_comes_from_no_page_has_no_origin() -> None:
    async with client(origins()) as http:
        assert (await http.get("/")).text == "served"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST:11434", 200),
        ("localhost.", 200),
        ("[::1]:8000", 200),
        ("10.1.2.3", 200),
        ("192.168.0.9:80", 200),
        ("a.localhost", 200),
        ("nas.local:8000", 200),
        ("host.docker.internal:11434", 200),
        ("gateway.example:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("8.8.8.8", 403),
        ("[2001:4860::1]", 403),
        ("[", 200),  # empty is like none
    ],
)
async def test_hosts_on_loopback(host: str, status: int) -> None:
    app = LocalHostsOnly(PlainTextResponse("served"), more=["Gateway.example"])
    async with client(app) as http:
        assert (await http.get("/api/tags", headers={"host": host})).status_code == status


@pytest.mark.parametrize(
    ("pattern", "origin", "is_allowed"),
    [
        ("*", "https://anything.example", True),
        ("https://*.example.com", "https://app.example.com", True),
        ("https://*.example.com", "https://app.example.org", False),
        ("chrome-extension://*", "chrome-extension://abc", True),
        ("http://192.168.1.*", "http://192.168.1.7:3000", True),
        ("http://a.b", "http://axb", False),
        ("*", "https://" + "a" * 1000, False),
    ],
)
async def test_a_star_stands_for_any_text(pattern: str, origin: str, is_allowed: bool) -> None:
    async with client(origins(pattern)) as http:
        response = await http.get("/v1/models", headers={"origin": origin})
        assert (response.status_code == 200) is is_allowed
