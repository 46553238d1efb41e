"""Redirects of downloads: followed to other hosts without the credentials, and each attempt begins at the file's own URL."""

import logging
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from pagoda.models.errors import ModelAccessError, ModelSourceError
from pagoda.models.sources import file_request
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.transfer import download_files
from tests.fakes.downloads import Downloads, some_bytes
from tests.fakes.file_server import Fault, FileServer, Reply
from tests.unit.pagoda.models.sources.conftest import PIECE_BYTES

SMALL = some_bytes(PIECE_BYTES)
LARGE = some_bytes(5 * PIECE_BYTES)
SECRET = "Bearer hf_secret"


class TokenAuth(httpx.Auth):
    """Authorization with a token, as the sources have it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self._token
        yield request


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 200])
@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_redirect_is_followed(downloads: Downloads, server: FileServer, status: int, content: bytes) -> None:
    server.redirect = status
    downloads.run(downloads.serve("model.gguf", content))


def test_each_attempt_begins_at_the_files_own_url(downloads: Downloads, server: FileServer) -> None:
    """The signed URL works once."""
    server.redirect = 307
    server.faults = [Fault(cut_after=10_000), Fault(status=503)]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert [(request.host, request.status) for request in server.requests] == [
        ("127.0.0.1", 307),
        ("localhost", 200),
        ("127.0.0.1", 307),
        ("localhost", 503),
        ("127.0.0.1", 307),
        ("localhost", 206),
    ]


@pytest.mark.parametrize("status", [307, 200])
@pytest.mark.parametrize("place", ["header", "auth"])
def test_credentials_are_sent_to_no_other_host(
    downloads: Downloads, server: FileServer, status: int, place: str
) -> None:
    server.redirect = status
    file = downloads.serve("model.gguf", LARGE)
    headers = {"Authorization": SECRET} if place == "header" else {}
    auth = TokenAuth(SECRET) if place == "auth" else None
    with httpx.Client(headers=headers, auth=auth, cookies={"session": "secret"}) as client:
        meter = DownloadMeter([file], lambda progress: None)
        download_files(client, {downloads.target(file): file}, meter)
    credentials = {(request.host, request.authorization) for request in server.requests}
    assert credentials == {("127.0.0.1", SECRET), ("localhost", None)}


def test_credentials_are_not_sent_to_another_port(downloads: Downloads, server: FileServer) -> None:
    downloads.headers = {"Authorization": SECRET}
    file = downloads.serve("model.gguf", SMALL)
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> Reply:
        seen.append(handler.headers["Authorization"])
        if handler.path == "/model.gguf":
            return Reply(307, {"Location": f"{server.other_url}/elsewhere"})
        if handler.path == "/elsewhere":  # sends the client back to the first host
            return Reply(307, {"Location": f"{server.url}/back"})
        return Reply(200, {}, SMALL)

    server.reply = answer
    downloads.run(file)
    assert seen == [SECRET, None, None]


def test_a_redirect_on_the_same_server_keeps_the_credentials(downloads: Downloads, server: FileServer) -> None:
    downloads.headers = {"Authorization": SECRET}
    file = downloads.serve("model.gguf", SMALL)
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler) -> Reply:
        seen.append(handler.headers["Authorization"])
        return Reply(307, {"Location": "/renamed"}) if handler.path == "/model.gguf" else Reply(200, {}, SMALL)

    server.reply = answer
    downloads.run(file)
    assert seen == [SECRET, SECRET]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("https://hf.co/a", "https://hf.co/b?c", True),
        ("https://hf.co/a", "https://HF.co:443/b", True),
        ("http://hf.co/a", "https://hf.co/a", True),
        ("https://hf.co/a", "http://hf.co/a", False),
        ("https://hf.co/a", "https://cdn.hf.co/a", False),
        ("https://hf.co/a", "https://hf.co.evil/a", False),
        ("http://hf.co:8080/a", "http://hf.co:8081/a", False),
        ("http://hf.co:8080/a", "https://hf.co/a", False),
    ],
)
def test_the_server_of_a_file_is_its_origin(one: str, other: str, is_same: bool) -> None:
    assert file_request._is_same_server(httpx.URL(one), httpx.URL(other)) is is_same


def test_impossible_redirects_take_no_connection(
    downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 5.0)
    server.faults = [Fault(status=302, headers={"Location": "http://[nowhere"})] * 5
    file = downloads.serve("model.gguf", SMALL)
    with httpx.Client(limits=httpx.Limits(max_connections=1)) as client:
        download_files(client, {downloads.target(file): file}, DownloadMeter([file], lambda progress: None))
    assert downloads.target(file).read_bytes() == SMALL


def test_a_body_with_its_own_location_is_taken(downloads: Downloads, server: FileServer) -> None:
    server.always = Fault(headers={"Location": "/model.gguf"})
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.statuses == [200]


def test_a_signed_url_that_has_expired_is_replaced(downloads: Downloads, server: FileServer) -> None:
    server.redirect = 307
    server.faults = [Fault(cut_after=10_000), Fault(status=403), Fault(cut_after=10), Fault(status=403)]
    downloads.run(downloads.serve("model.gguf", SMALL))


def test_a_host_that_refuses_two_signed_urls_in_a_row_ends_the_download(
    downloads: Downloads, server: FileServer
) -> None:
    server.redirect = 307
    server.always = Fault(status=403)
    with pytest.raises(
        ModelAccessError,
        match=r"^model\.gguf cannot be downloaded \(HTTP status 403 from localhost\); check your access",
    ):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert len(server.requests) == 4


def test_a_malformed_token_is_not_shown(downloads: Downloads, caplog: pytest.LogCaptureFixture) -> None:
    file = downloads.serve("model.gguf", SMALL)
    meter = DownloadMeter([file], lambda progress: None)
    with caplog.at_level(logging.INFO, logger="pagoda"), httpx.Client(auth=TokenAuth(f"{SECRET}\n")) as client:
        with pytest.raises(ModelSourceError, match="invalid header; check the token") as error:
            download_files(client, {downloads.target(file): file}, meter)
    assert "secret" not in f"{error.value!r} {error.value.__cause__!r} {caplog.text}"
