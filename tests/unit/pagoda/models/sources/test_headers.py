"""Models without their weights: the header is read as from the whole file, and little more than the header is requested."""

import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from pagoda.models.errors import ModelFormatError, ModelSourceError
from pagoda.models.formats.description import describe
from pagoda.models.formats.gguf_file import GGUFError, GGUFFile
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from pagoda.models.sources import file_request, headers
from pagoda.models.sources.headers import NoRangesError, fetch_headers, is_checkable
from pagoda.models.sources.interruption import Interruption, StoppedError
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from tests.fakes.downloads import Downloads
from tests.fakes.file_server import Fault, FileServer
from tests.fakes.tiny_checkpoint import write_complete_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf

FIRST_BYTES = 1_000


@pytest.fixture(autouse=True)
def _first_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "FIRST_BYTES", FIRST_BYTES)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def serve(downloads: Downloads, files: Mapping[str, bytes], root: str = "") -> RemoteModel:
    remotes = [downloads.serve(name, content) for name, content in sorted(files.items())]
    return RemoteModel(name="tiny", source="test", version="1", files=tuple(remotes), root=root)


def fetch(downloads: Downloads, remote: RemoteModel) -> Path:
    downloads.directory.mkdir(exist_ok=True)
    with httpx.Client() as client:
        return fetch_headers(client, remote, downloads.directory)


def described(path: Path) -> Model:
    model = describe("tiny", path, digest="", size_bytes=0)
    check_tensors(model)
    return model


def facts(model: Model) -> tuple[object, ...]:
    return model.config, model.quantization, model.num_parameters, model.eos_token_ids, model.recommended


def bytes_on_disk(path: Path) -> int:
    return sum(each.stat().st_blocks * 512 for each in ([path] if path.is_file() else path.iterdir()))


@pytest.mark.parametrize("first_bytes", [8, 777, 10_000, 1 << 20])
def test_the_header_of_a_gguf_file_describes_the_model(
    downloads: Downloads, gguf: Path, first_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "FIRST_BYTES", first_bytes)
    path = fetch(downloads, serve(downloads, {"folder/tiny.gguf": gguf.read_bytes()}, root="folder/tiny.gguf"))
    assert path == downloads.directory / "folder/tiny.gguf"
    assert facts(described(path)) == facts(described(gguf))
    with GGUFFile(path) as fetched, GGUFFile(gguf) as whole:
        assert dict(fetched.metadata) == dict(whole.metadata)
        assert dict(fetched.tensors) == dict(whole.tensors)


def test_little_more_than_the_header_is_requested(downloads: Downloads, gguf: Path) -> None:
    content = gguf.read_bytes()
    path = fetch(downloads, serve(downloads, {"tiny.gguf": content}, root="tiny.gguf"))
    ends = [int(str(asked).rpartition("-")[2]) for asked in downloads.ranges]
    with GGUFFile(gguf) as whole:
        header_bytes = min(tensor.offset for tensor in whole.tensors.values())
    assert max(ends) < 4 * header_bytes < len(content) / 2
    assert path.stat().st_size == len(content)
    assert bytes_on_disk(path) < len(content) / 2


def test_all_parts_of_a_gguf_file_are_fetched(downloads: Downloads, tmp_path: Path) -> None:
    first = write_tiny_gguf(tmp_path / "whole.gguf", tensors_per_part=7)
    parts = {path.name: path.read_bytes() for path in tmp_path.glob("*.gguf")}
    assert len(parts) > 1
    path = fetch(downloads, serve(downloads, parts, root=first.name))
    assert facts(described(path)) == facts(described(first))


@pytest.mark.parametrize("num_files", [1, 2])
def test_the_headers_of_a_checkpoint_describe_the_model(downloads: Downloads, tmp_path: Path, num_files: int) -> None:
    checkpoint = write_complete_checkpoint(tmp_path / "checkpoint", num_files=num_files)
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    path = fetch(downloads, serve(downloads, files))
    assert path == downloads.directory
    assert facts(described(path)) == facts(described(checkpoint))
    for name, content in files.items():
        if name.endswith(".safetensors"):
            assert (path / name).stat().st_size == len(content)
            assert bytes_on_disk(path / name) < len(content) / 2
        else:
            assert (path / name).read_bytes() == content


def test_a_server_without_ranges_is_not_read_to_the_end(downloads: Downloads, server: FileServer, gguf: Path) -> None:
    """The second half of each answer never comes."""
    content = gguf.read_bytes()
    server.always = Fault(has_ranges=False, stall_after=len(content) // 2)
    path = fetch(downloads, serve(downloads, {"tiny.gguf": content}, root="tiny.gguf"))
    assert facts(described(path)) == facts(described(gguf))


def test_far_bytes_of_a_server_without_ranges_are_not_fetched(
    downloads: Downloads, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_tiny_gguf(tmp_path / "tiny.gguf", rope_factor=8.0).read_bytes()
    monkeypatch.setattr(headers, "MAX_GGUF_HEADER_BYTES", 100_000)
    remote = serve(downloads, {"tiny.gguf": content}, root="tiny.gguf")
    assert described(fetch(downloads, remote)).config.rope_scaling is not None
    server.always = Fault(has_ranges=False)
    with pytest.raises(NoRangesError, match=r"127\.0\.0\.1 sends files only whole"):
        fetch(downloads, remote)


def test_interrupted_headers_are_resumed(downloads: Downloads, server: FileServer, gguf: Path) -> None:
    server.faults = [Fault(cut_after=400), Fault(status=503), Fault(surplus=b"surplus"), Fault(cut_after=0)]
    path = fetch(downloads, serve(downloads, {"tiny.gguf": gguf.read_bytes()}, root="tiny.gguf"))
    assert facts(described(path)) == facts(described(gguf))
    assert downloads.ranges[:3] == ["bytes=0-999", "bytes=400-999", "bytes=400-999"]


def test_a_damaged_header_is_left_to_its_reader_at_once(downloads: Downloads, gguf: Path) -> None:
    content = bytearray(gguf.read_bytes())
    content[4] = 99  # the version
    path = fetch(downloads, serve(downloads, {"tiny.gguf": bytes(content)}, root="tiny.gguf"))
    with pytest.raises(GGUFError, match="version 99"):
        GGUFFile(path)
    assert len(downloads.ranges) == 1


def test_a_string_that_is_cut_within_a_character_is_not_damage(downloads: Downloads, tmp_path: Path) -> None:
    """The first bytes end at each position of a header whose strings are not ASCII."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf", chat_template="{{ 'żółć 你好 🦙' }}", merges=["ż ó", "ł ć"])
    content = path.read_bytes()
    start = content.index("żółć".encode())
    remote = serve(downloads, {"tiny.gguf": content}, root="tiny.gguf")
    with pytest.MonkeyPatch.context() as patch:
        for first_bytes in range(start, start + 40):
            patch.setattr(headers, "FIRST_BYTES", first_bytes)
            assert facts(described(fetch(downloads, remote))) == facts(described(path))


def test_a_gguf_header_that_does_not_end_is_refused(
    downloads: Downloads, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headers, "MAX_GGUF_HEADER_BYTES", 3_000)
    with pytest.raises(ModelFormatError, match=r"tiny\.gguf has more than 3000 bytes of metadata"):
        fetch(downloads, serve(downloads, {"tiny.gguf": gguf.read_bytes()}, root="tiny.gguf"))
    assert max(int(str(asked).rpartition("-")[2]) for asked in downloads.ranges) < 3_000


def test_a_safetensors_header_that_is_too_large_is_not_fetched(downloads: Downloads) -> None:
    content = (1 << 40).to_bytes(8, "little") + bytes(10_000)
    fetch(downloads, serve(downloads, {"model.safetensors": content}))
    assert downloads.ranges == ["bytes=0-999"]


@pytest.mark.parametrize("content", [b"", b"1234567", b"GGUF", bytes(8)], ids=["empty", "short", "magic", "zeros"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_a_tiny_file_is_fetched_whole(downloads: Downloads, name: str, content: bytes) -> None:
    fetch(downloads, serve(downloads, {name: content}))
    assert (downloads.directory / name).read_bytes() == content


def test_a_small_file_that_is_large_is_refused(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headers, "MAX_SMALL_FILE_BYTES", 100)
    with pytest.raises(ModelFormatError, match=r"tokenizer\.json must have at most 100 bytes \(got 101\)"):
        fetch(downloads, serve(downloads, {"tokenizer.json": bytes(101)}))
    assert downloads.ranges == []


def test_a_size_that_no_model_has_is_refused(downloads: Downloads) -> None:
    file = RemoteFile(path="model.gguf", url=f"{downloads.server.url}/model.gguf", size_bytes=1 << 63)
    with pytest.raises(ModelFormatError, match=rf"model\.gguf must have at most {1 << 42} bytes \(got {1 << 63}\)"):
        fetch(downloads, RemoteModel(name="tiny", source="test", version="1", files=(file,), root="model.gguf"))


@pytest.mark.parametrize("path", ["/etc/model.gguf", "../model.gguf", "a/../../config.json", ""])
def test_a_path_outside_the_model_is_refused(downloads: Downloads, path: str) -> None:
    file = RemoteFile(path=path, url=downloads.server.url, size_bytes=1)
    with pytest.raises(ModelSourceError, match=re.escape(f"{path!r}, which is not a path inside the model")):
        fetch(downloads, RemoteModel(name="tiny", source="test", version="1", files=(file,), root=""))


def test_a_refused_header_ends_the_others(
    downloads: Downloads, server: FileServer, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is silent about the other file, so a test that waited for it would exceed its time limit."""
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 10_000.0)
    is_silent = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/b.gguf":
            is_silent.set()
            server.over.wait()
        is_silent.wait()

    server.reply = answer
    remote = serve(downloads, {"a.gguf": gguf.read_bytes(), "b.gguf": gguf.read_bytes()}, root="a.gguf")
    del server.files["/a.gguf"]
    with pytest.raises(ModelSourceError, match="HTTP status 404"):
        fetch(downloads, remote)


def test_only_files_with_addresses_are_checkable(downloads: Downloads, gguf: Path) -> None:
    remote = serve(downloads, {"tiny.gguf": gguf.read_bytes()}, root="tiny.gguf")
    assert is_checkable(remote)
    file = RemoteFile(path="tiny.gguf", url="", size_bytes=1)
    assert not is_checkable(RemoteModel(name="tiny", source="wheel", version="1", files=(file,), root="tiny.gguf"))


def test_an_interruption_ends_a_wait_for_the_next_attempt() -> None:
    interruption = Interruption()
    interruption.stop()
    with pytest.raises(StoppedError):
        interruption.wait(10_000)
