"""A process that is killed in the middle of a download loses nothing that it has reported."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from pagoda.models.sources import partial_file
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile
from pagoda.models.sources.transfer import download_files
from tests.fakes.downloads import Downloads, some_bytes
from tests.fakes.file_server import Fault, FileServer
from tests.unit.pagoda.models.sources.conftest import PIECE_BYTES


def download_in_child(directory: Path, file: RemoteFile, reported: Connection) -> None:
    """Download the file and send each reported number of bytes."""
    partial_file.MIN_PIECE_BYTES = PIECE_BYTES
    meter = DownloadMeter([file], lambda progress: reported.send(progress.completed_bytes))
    with httpx.Client() as client:
        download_files(client, {directory / file.path: file}, meter)


def kill_in_the_middle(downloads: Downloads, file: RemoteFile, num_bytes: int) -> None:
    """Download in a process, and kill it as soon as it has reported so many bytes."""
    reading, writing = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=download_in_child, args=(downloads.directory, file, writing))
    child.start()
    while reading.recv() < num_bytes:
        pass
    child.kill()
    child.join()


def num_requested(asked: str | None, size: int) -> int:
    """Return how many bytes a request asked for."""
    first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
    return int(last or size - 1) + 1 - int(first)


def test_a_small_file_is_resumed_at_the_byte(downloads: Downloads, server: FileServer) -> None:
    """A thousand bytes of the first answer arrive: too few to fill a buffer."""
    server.always = Fault(stall_after=1_000)
    file = downloads.serve("model.gguf", some_bytes(10_000))
    kill_in_the_middle(downloads, file, 1_000)
    server.always = Fault()
    assert downloads.run(file)[0] == 1_000
    assert downloads.ranges == [None, "bytes=1000-"]


def test_a_large_file_is_resumed_in_each_of_its_pieces(downloads: Downloads, server: FileServer) -> None:
    """The first piece arrives, and of each other one a thousand bytes."""
    file = downloads.serve("model.gguf", some_bytes(5 * PIECE_BYTES))
    held = PIECE_BYTES + 4 * 1_000
    server.faults = [Fault()]
    server.always = Fault(stall_after=1_000)
    kill_in_the_middle(downloads, file, held)
    server.always, server.requests[:] = Fault(), []
    assert downloads.run(file)[0] == held
    assert sum(num_requested(asked, file.size_bytes) for asked in downloads.ranges) == file.size_bytes - held
