"""A file server and downloads from it, and a fake hub and the contents of its repositories."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pagoda.models.sources import partial_file
from tests.fakes.downloads import Downloads
from tests.fakes.file_server import FileServer, file_server
from tests.fakes.hub_server import FakeHub, running_hub
from tests.fakes.hub_user import HubUser
from tests.fakes.tiny_checkpoint import write_complete_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf

PIECE_BYTES = 50_000


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagoda.models.sources.hub_client.RETRY_DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr("pagoda.models.sources.attempts.FIRST_WAIT_S", 0.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Run a server. Files have pieces of PIECE_BYTES bytes."""
    monkeypatch.setattr(partial_file, "MIN_PIECE_BYTES", PIECE_BYTES)
    with file_server() as server:
        yield server


@pytest.fixture
def downloads(server: FileServer, tmp_path: Path) -> Downloads:
    return Downloads(server, tmp_path / "downloads")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def user(hub: FakeHub, tmp_path: Path) -> HubUser:
    return HubUser(hub, tmp_path)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="session")
def other_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "other.gguf", seed=1).read_bytes()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    directory = write_complete_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", num_files=2)
    return {path.name: path.read_bytes() for path in directory.iterdir()}
