"""Servers that are never silent for long, but send so slowly that an answer would take days: headers, bodies and small answers."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from pagoda.models.errors import ModelSourceError
from pagoda.models.names import HubName
from pagoda.models.sources import attempts, file_request, hub_client, registry_client
from pagoda.models.sources.hub_client import HubClient
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.registry_client import get_small, open_client
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.transfer import download_files

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"
PAUSE_S = 0.01


@contextmanager
def trickling_server(beginning: bytes, *, num_bytes: int = 1_000_000, first: bytes = b"") -> Iterator[str]:
    """Run a server while the block runs and yield its URL. After `beginning` it sends a byte at a time, then closes.

    With `first`, the first request of each connection gets that complete answer.
    """
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            for data in filter(None, (first, beginning)):
                connection.recv(65536)
                connection.sendall(data)
            for _ in range(num_bytes):
                connection.sendall(b"x")
                if over.wait(PAUSE_S):
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_FAILURES", 2)
    monkeypatch.setattr(registry_client, "RETRY_DELAYS_S", ())


def download(url: str, directory: Path) -> None:
    file = RemoteFile(path="m.gguf", url=f"{url}/m.gguf", size_bytes=200_000, sha256=hashlib.sha256().hexdigest())
    with httpx.Client() as client:
        download_files(client, {directory / "m.gguf": file}, DownloadMeter([file], lambda progress: None))


def test_a_body_that_trickles_ends_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 0.2)
    with trickling_server(HEAD) as url, pytest.raises(ModelSourceError, match=r"only \d+ bytes in 0\.2 s"):
        download(url, tmp_path)


def test_headers_that_trickle_end_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_request, "HEAD_TIMEOUT_S", 0.2)
    with trickling_server(b"HTTP/1.1 200 OK\r\nX: ") as url:
        with pytest.raises(ModelSourceError, match=r"no complete answer within 0\.2 s"):
            download(url, tmp_path)


def test_connections_with_a_few_bytes_each_end_the_download(tmp_path: Path) -> None:
    with trickling_server(HEAD, num_bytes=1) as url, pytest.raises(ModelSourceError, match="pull again to resume"):
        download(url, tmp_path)


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 OK\r\nX: ", HEAD, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"],
    ids=["headers", "body", "body-without-length"],
)
def test_small_answers_of_a_registry_that_trickle_end(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(registry_client, "MAX_ANSWER_S", 0.2)
    monkeypatch.setattr(registry_client, "RETRY_DELAYS_S", (0.0,))
    monkeypatch.setattr("time.sleep", pytest.fail)  # such an answer is not asked for again
    with trickling_server(beginning) as url, open_client(url) as client:
        with pytest.raises(ModelSourceError, match=r"no complete answer within 0\.2 s"):
            get_small(client, f"{url}/v2/a/b/manifests/c", max_bytes=1 << 20)


@pytest.mark.parametrize("beginning", [b"HTTP/1.1 200 OK\r\nX: ", HEAD], ids=["headers", "body"])
def test_a_listing_of_the_hub_that_trickles_ends(monkeypatch: pytest.MonkeyPatch, beginning: bytes) -> None:
    monkeypatch.setattr(hub_client, "MAX_LISTING_S", 0.2)
    with trickling_server(beginning) as url:
        client = HubClient(HubName(repo="Org/Repo"), SourceSettings(hub_url=url, hub_token=""))
        with client.http, pytest.raises(ModelSourceError, match="did not answer in time"):
            client.commit()


def test_a_used_connection_has_the_time_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "MAX_ANSWER_S", 0.5)
    first = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with trickling_server(b"HTTP/1.1 200 OK\r\nX: ", first=first) as url, open_client(url) as client:
        assert get_small(client, url, max_bytes=2) == b"ok"
        with pytest.raises(ModelSourceError, match=r"no complete answer within 0\.5 s"):
            get_small(client, url, max_bytes=1 << 20)
