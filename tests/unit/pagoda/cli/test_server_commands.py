"""ps and stop, how the command finds a server, and how it reports one that fails."""

import json
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

from pagoda.cli.failure import CommandError
from pagoda.cli.main import app
from pagoda.cli.ollama_api import server_url
from pagoda.cli.server_commands import running_page
from tests.fakes.ollama_server import FOREVER, MODEL, OllamaServer, ollama_server


@pytest.fixture
def server() -> Iterator[OllamaServer]:
    with ollama_server() as server:
        yield server


def command(server: OllamaServer, *arguments: str, key: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), env={"PAGODA_HOST": server.url, "PAGODA_API_KEY": key})


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("myhost", "http://myhost:8000"),
        ("myhost:9", "http://myhost:9"),
        ("0.0.0.0:9", "http://127.0.0.1:9"),
        ("[::1]:9", "http://[::1]:9"),
        ("http://myhost", "http://myhost:80"),
        ("https://myhost/", "https://myhost:443"),
    ],
)
def test_addresses_are_spelled_as_for_ollama(text: str, url: str) -> None:
    assert server_url(text) == url


@pytest.mark.parametrize("text", ["", "ftp://myhost", "myhost:port", "http://"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(CommandError, match="the server's address must be a URL"):
        server_url(text)


def test_ps_has_ollamas_columns(server: OllamaServer) -> None:
    header, line = command(server, "ps").stdout.splitlines()
    assert header == "NAME           ID              SIZE    PROCESSOR    CONTEXT    UNTIL"
    assert line == "tiny:latest    abababababab    5 GB    100% CPU     512        Forever"


def test_ps_shows_how_far_a_load_has_come() -> None:
    loading = {"status": "loading", "completed": 30, "total": 90, "context_length": 512, "size_vram": 0}
    page = running_page([{"name": MODEL, "digest": "ab" * 32, "size": 90, "expires_at": FOREVER, **loading}])
    assert page.endswith("Loading 33%")


def test_ps_says_who_waits(server: OllamaServer) -> None:
    row = {"model": "tiny", "num_waiting": 2, "oldest_s": 2.13}
    rows = [row | {"tenant": "ci", "next_position": 1}, row | {"tenant": "", "next_position": 2}]
    server.queue = {"num_waiting": 0, "num_running": 1, "wait_s": 0.0, "queues": []}
    assert len(command(server, "ps").stdout.splitlines()) == 2
    server.queue = {"num_waiting": 4, "num_running": 8, "wait_s": 9.7, "queues": rows}
    assert command(server, "ps").stdout.splitlines()[2:] == [
        "",
        "MODEL    TENANT    WAITING    NEXT IN LINE    OLDEST",
        "tiny     ci        2          1               2.1 s",
        "tiny     -         2          2               2.1 s",
        "8 running, 4 waiting; a new request waits about 10 s",
    ]
    assert json.loads(command(server, "ps", "--json").stdout)["queue"] == server.queue


def test_ps_as_json(server: OllamaServer) -> None:
    assert json.loads(command(server, "ps", "--json").stdout)["models"][0]["name"] == MODEL


def test_stop_asks_for_unloading(server: OllamaServer) -> None:
    stopped = command(server, "stop", "tiny")
    assert (stopped.exit_code, stopped.output) == (0, "")
    assert server.bodies("/api/generate") == [{"model": "tiny", "keep_alive": 0}]


def test_stop_of_what_is_not_there(server: OllamaServer) -> None:
    failed = command(server, "stop", "nothing")
    assert failed.exit_code == 1 and 'couldn\'t find model "nothing" to stop' in failed.stderr


def test_a_key_is_sent_and_asked_for(server: OllamaServer) -> None:
    server.key = "sesame"
    assert command(server, "ps", key="sesame").exit_code == 0
    refused = command(server, "ps")
    assert refused.exit_code == 1
    assert refused.stderr == f"Error: the server at {server.url} requires an API key; set PAGODA_API_KEY\n"
    wrong = command(server, "ps", key="open")
    assert wrong.stderr == f"Error: the server at {server.url} refused the API key in PAGODA_API_KEY; set a valid one\n"


def test_no_server(server: OllamaServer) -> None:
    failed = CliRunner().invoke(app, ["ps", "--server", "127.0.0.1:1"])
    assert failed.exit_code == 1
    assert failed.stderr == "Error: no server answers at http://127.0.0.1:1; start one: pagoda serve\n"


def test_something_else_answers(server: OllamaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", lambda value: "<html>")
    failed = command(server, "ps")
    assert failed.exit_code == 1 and "does not speak Ollama's API" in failed.stderr
