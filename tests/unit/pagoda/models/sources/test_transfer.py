"""Downloads of files: complete and verified or not there, resumed, over several connections, and one at a time for each file."""

import errno
import fcntl
import os
import signal
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from pagoda.models.errors import ModelSourceError, ModelStoreError
from pagoda.models.sources import file_request, partial_file, transfer
from pagoda.models.sources.interruption import Interruption, StoppedError
from pagoda.models.sources.partial_file import PartialFile
from pagoda.models.sources.piece_record import Piece, write_all
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.transfer import download_files
from tests.fakes.certificates import Authority
from tests.fakes.downloads import Downloads, some_bytes
from tests.fakes.file_server import Fault, FileServer, Reply, file_server
from tests.unit.pagoda.models.sources.conftest import PIECE_BYTES

SMALL = some_bytes(PIECE_BYTES)
"""A file of one piece."""
LARGE = some_bytes(5 * PIECE_BYTES + 17)
"""A file of six pieces."""


@pytest.mark.parametrize("digest", ["sha256", "git_oid", None])
@pytest.mark.parametrize("content", [LARGE, SMALL, b""], ids=["large", "small", "empty"])
def test_a_file_arrives_whole(downloads: Downloads, content: bytes, digest: str | None) -> None:
    downloads.run(downloads.serve("folder/model.gguf", content, digest=digest))


def test_several_files_arrive_with_one_progress(downloads: Downloads) -> None:
    files = [downloads.serve(f"{number}.bin", some_bytes(1_000 * number, number)) for number in range(20)]
    downloads.run(*files, downloads.serve("large.bin", LARGE))


def test_a_file_that_is_there_is_reported_and_not_requested(downloads: Downloads) -> None:
    file, other = downloads.serve("model.gguf", SMALL), downloads.serve("other.gguf", LARGE)
    downloads.run(file)
    assert downloads.run(file) == [len(SMALL)]
    assert len(downloads.server.requests) == 1
    downloads.run(file, other)
    assert {request.path for request in downloads.server.requests[1:]} == {"/other.gguf"}


def test_a_file_of_another_size_at_the_target_is_replaced(downloads: Downloads) -> None:
    file = downloads.serve("model.gguf", SMALL)
    downloads.directory.mkdir()
    downloads.target(file).write_bytes(b"too short")
    downloads.run(file)


def test_pieces_of_a_large_file_arrive_at_the_same_time(downloads: Downloads, server: FileServer) -> None:
    others = threading.Barrier(5)

    def wait_for_the_others(handler: BaseHTTPRequestHandler) -> Reply | None:
        if handler.headers["Range"] != f"bytes=0-{PIECE_BYTES - 1}":
            others.wait(timeout=200)
        return None

    server.reply = wait_for_the_others
    downloads.run(downloads.serve("model.gguf", LARGE))
    starts = sorted(int(str(asked).removeprefix("bytes=").partition("-")[0]) for asked in downloads.ranges)
    assert starts == list(range(0, len(LARGE), PIECE_BYTES))


def test_a_broken_connection_is_followed_by_another(downloads: Downloads, server: FileServer) -> None:
    server.faults = [Fault(cut_after=10_000), Fault(cut_after=1), Fault(cut_after=20_000)]
    downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.ranges == [None, "bytes=10000-", "bytes=10001-", "bytes=30001-"]


def test_an_interrupted_download_is_resumed(downloads: Downloads, server: FileServer) -> None:
    server.always = Fault(stall_after=10_000)
    file = downloads.serve("model.gguf", SMALL)
    assert downloads.run(file, interrupt_at=10_000)[-1] == 10_000
    assert not downloads.target(file).exists()
    server.always = Fault()
    assert downloads.run(file)[0] == 10_000
    assert downloads.ranges == [None, "bytes=10000-"]


def test_each_piece_of_an_interrupted_download_is_resumed(downloads: Downloads, server: FileServer) -> None:
    """The first piece is complete; of each other one, the first 10000 bytes are here."""
    server.faults = [Fault()]
    server.always = Fault(stall_after=10_000)
    file = downloads.serve("model.gguf", LARGE)
    held = PIECE_BYTES + 4 * 10_000 + 17
    assert downloads.run(file, interrupt_at=held)[-1] == held
    server.always, server.requests[:] = Fault(), []
    assert downloads.run(file)[0] == held
    starts = [10_000 + number * PIECE_BYTES for number in range(1, 5)]
    assert sorted(map(str, downloads.ranges)) == sorted(
        f"bytes={start}-{start + PIECE_BYTES - 10_001}" for start in starts
    )


@pytest.mark.parametrize("content", [SMALL, LARGE], ids=["small", "large"])
def test_a_server_without_ranges_sends_the_file_from_its_start(
    downloads: Downloads, server: FileServer, content: bytes
) -> None:
    server.always = Fault(has_ranges=False)
    server.faults = [Fault(has_ranges=False, cut_after=20_000), Fault(has_ranges=False, cut_after=10_000)]
    downloads.run(downloads.serve("model.gguf", content))
    assert downloads.statuses == [200, 200, 200]


def test_one_answer_without_a_range_does_not_discard_the_pieces(downloads: Downloads, server: FileServer) -> None:
    server.faults = [Fault(), Fault(), Fault(), Fault(has_ranges=False)]
    downloads.run(downloads.serve("model.gguf", LARGE))
    assert downloads.statuses.count(206) == 6


def test_bytes_are_hashed_once_and_while_they_arrive(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "HASH_STEP_BYTES", 1_000)
    num_read: list[int] = []

    def pread(file: int, num_bytes: int, position: int) -> bytes:
        num_read.append(len(data := original(file, num_bytes, position)))
        return data

    original = os.pread
    monkeypatch.setattr(partial_file, "os", SimpleNamespace(**{**vars(os), "pread": pread}))
    downloads.run(downloads.serve("model.gguf", LARGE))
    assert sum(num_read) == len(LARGE)
    assert len(num_read) > 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda directory: (directory / "model.gguf.partial.state").unlink(),
        lambda directory: (directory / "model.gguf.partial").unlink(),
        lambda directory: (directory / "model.gguf.partial.state").write_bytes(b"{"),
        lambda directory: (directory / "model.gguf.partial.state").write_bytes(b'{"content": "", "size": 1}\n'),
        lambda directory: os.truncate(directory / "model.gguf.partial.state", 200),
        lambda directory: os.truncate(directory / "model.gguf.partial", 100),
    ],
    ids=["no record", "no bytes", "half a record", "other content", "short record", "short file"],
)
def test_what_its_record_does_not_describe_is_downloaded_again(
    downloads: Downloads, damage: Callable[[Path], object]
) -> None:
    file = downloads.serve("model.gguf", SMALL)
    downloads.run(file, interrupt_at=1)
    damage(downloads.directory)
    downloads.server.requests.clear()
    assert downloads.run(file)[0] == 0
    assert downloads.ranges == [None]


def test_another_content_is_not_resumed(downloads: Downloads) -> None:
    downloads.run(downloads.serve("model.gguf", SMALL), interrupt_at=1)
    downloads.server.requests.clear()
    downloads.run(downloads.serve("model.gguf", some_bytes(len(SMALL), seed=1)))
    assert downloads.ranges == [None]


def test_two_downloads_of_a_file_share_it(downloads: Downloads, server: FileServer) -> None:
    """The second waits until the first has downloaded the file, or has failed."""
    file, is_asked, may_answer = downloads.serve("model.gguf", SMALL), threading.Event(), threading.Event()

    def answer_later(handler: BaseHTTPRequestHandler) -> None:
        is_asked.set()
        may_answer.wait()

    server.reply = answer_later
    first = threading.Thread(target=downloads_quietly, args=(downloads, file))
    first.start()
    is_asked.wait()
    second = threading.Thread(target=downloads_quietly, args=(downloads, file))
    second.start()
    may_answer.set()
    first.join()
    second.join()
    assert downloads.target(file).read_bytes() == SMALL
    assert len(server.requests) == 1


def test_a_file_system_without_locks_is_used_without(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    downloads.run(downloads.serve("model.gguf", SMALL))


def test_a_digest_in_upper_case_is_the_same(downloads: Downloads) -> None:
    file = downloads.serve("model.gguf", SMALL)
    downloads.run(replace(file, sha256=str(file.sha256).upper()))


def test_an_interruption_ends_the_computation_of_a_digest(downloads: Downloads, tmp_path: Path) -> None:
    interruption = Interruption()
    partial = PartialFile(tmp_path / "model.gguf", downloads.serve("model.gguf", SMALL), interruption)
    assert partial.try_open()
    piece = partial.take()
    assert isinstance(piece, Piece)
    interruption.stop()
    with pytest.raises(StoppedError):
        partial.write(piece, SMALL)
    partial.close()


def downloads_quietly(downloads: Downloads, *files: RemoteFile) -> None:
    with httpx.Client() as client:
        meter = DownloadMeter(files, lambda progress: None)
        download_files(client, {downloads.target(file): file for file in files}, meter)


def download_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("download-")]


@pytest.mark.parametrize("has_tls", [False, True])
def test_an_error_of_the_receiver_stops_silent_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_tls: bool
) -> None:
    """Two connections are silent in their bodies, one before its answer. A test that waited for them would time out."""
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 10_000.0)
    authority = Authority(tmp_path)
    trusted = ssl.create_default_context(cafile=str(authority.path))
    with file_server(authority.issue("server") if has_tls else None) as server, httpx.Client(verify=trusted) as client:
        downloads = Downloads(server, tmp_path / "downloads")
        files = [downloads.serve(f"{number}.bin", SMALL) for number in range(3)]
        is_silent = threading.Event()

        def stay_silent(handler: BaseHTTPRequestHandler) -> None:
            if handler.path == "/0.bin":
                is_silent.set()
                server.over.wait()
            is_silent.wait()

        def fail_at_the_end(progress: object) -> None:
            if server.num_stalled == 2:
                raise ZeroDivisionError

        server.reply = stay_silent
        server.always = Fault(stall_after=10_000)
        with pytest.raises(ZeroDivisionError):
            meter = DownloadMeter(files, fail_at_the_end)
            download_files(client, {downloads.target(file): file for file in files}, meter)
        assert download_threads() == []


def test_an_interrupt_from_the_keyboard_stops_silent_connections(
    downloads: Downloads, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_request, "READ_TIMEOUT_S", 10_000.0)
    file = downloads.serve("model.gguf", LARGE)
    fifth_piece = f"bytes={4 * PIECE_BYTES}-{5 * PIECE_BYTES - 1}"

    def interrupt(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["Range"] == fifth_piece:
            while sum(thread.is_alive() for thread in download_threads()) < transfer.MAX_CONNECTIONS:
                pass
            os.kill(os.getpid(), signal.SIGINT)
        if server.requests:  # the first piece was sent
            server.over.wait()

    server.reply = interrupt
    with pytest.raises(KeyboardInterrupt):
        downloads_quietly(downloads, file)
    assert download_threads() == []
    server.reply = lambda handler: None
    downloads.run(file)


def test_an_error_of_the_receiver_that_looks_like_one_of_the_disk_is_passed_on(downloads: Downloads) -> None:
    file = downloads.serve("model.gguf", SMALL)

    def fail(progress: object) -> None:
        raise BrokenPipeError("the client has gone")

    with pytest.raises(BrokenPipeError), httpx.Client() as client:
        download_files(client, {downloads.target(file): file}, DownloadMeter([file], fail))


def test_a_disk_that_is_too_small_is_seen_before_the_download(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**12, free=10**4))
    with pytest.raises(ModelStoreError, match=r"needs 0\.00 GB more, 0\.00 GB are free; make room and pull again"):
        downloads.run(downloads.serve("model.gguf", SMALL))
    assert downloads.server.requests == []


def test_a_full_disk_ends_the_download(downloads: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    file = downloads.serve("model.gguf", SMALL)
    is_full = False

    def write(*args: Any) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_all(*args)

    def fill_the_disk(handler: BaseHTTPRequestHandler) -> None:
        nonlocal is_full
        is_full = True

    downloads.server.reply = fill_the_disk
    monkeypatch.setattr(partial_file, "write_all", write)
    with pytest.raises(ModelStoreError, match=r"^the model could not be stored: No space left on device; pull again"):
        downloads.run(file)


def test_a_directory_that_cannot_be_made_is_an_error_of_the_store(downloads: Downloads) -> None:
    downloads.directory.write_text("a file")
    with pytest.raises(ModelStoreError, match="could not be stored"):
        downloads.run(downloads.serve("model.gguf", SMALL))


def test_a_refused_file_does_not_hide_behind_the_others(downloads: Downloads) -> None:
    files = [downloads.serve("model.gguf", LARGE), downloads.serve("missing.json", SMALL)]
    del downloads.server.files["/missing.json"]
    with pytest.raises(ModelSourceError, match=r"cannot send missing\.json \(HTTP status 404\)"):
        downloads.run(*files)
