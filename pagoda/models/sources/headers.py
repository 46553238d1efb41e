"""Fetches what describes a model: small files whole, and of weights only the headers, in sparse files of the full size.

A header of GGUF includes the factors of the rope scaling, which are stored as tensors. Headers are not verified by a digest, which
only a whole file has.
"""

import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO

import httpx

from pagoda.models.errors import ModelFormatError, ModelSourceError
from pagoda.models.formats.gguf_file import GGUFError, GGUFPart
from pagoda.models.formats.gguf_rope import FACTOR_TENSORS
from pagoda.models.formats.safetensors_file import MAX_HEADER_BYTES
from pagoda.models.scratch import writing
from pagoda.models.sources.attempts import Attempts
from pagoda.models.sources.file_request import FileAnswer, InterruptedDownloadError, request_file
from pagoda.models.sources.interruption import Interruption, run_in_threads
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.transfer import download_files

FIRST_BYTES = 1 << 20
MAX_GGUF_HEADER_BYTES = 256 << 20
"""Bound of the metadata and tensor descriptions of a GGUF file, in bytes: 10 times the size with the largest vocabulary."""
MAX_SMALL_FILE_BYTES = 256 << 20
"""Bound of a file that is not weights, in bytes: 8 times the largest tokenizer."""
MAX_WEIGHT_FILE_BYTES = 1 << 42
"""Bound of a file of weights, in bytes: 80 times the largest that the hub recommends."""
MAX_ROPE_FACTOR_BYTES = 1 << 16
"""Bound of the rope factors, in bytes: 32 times the size for the largest heads."""
_MAX_CONNECTIONS = 8
_GROWTH = 4


class NoRangesError(ModelSourceError):
    """The server sends files only whole, so that bytes far behind the beginning cannot be fetched alone."""


def is_checkable(remote: RemoteModel) -> bool:
    """Return True if the headers of the model's weights can be read without the weights."""
    return all(file.url for file in remote.files)


def fetch_headers(client: httpx.Client, remote: RemoteModel, directory: Path) -> Path:
    """Fetch small files, and of weights only the headers, into `directory`. Return the model's path there.

    Raises ModelSourceError, ModelStoreError, or ModelFormatError for files that are too large. A damaged header is left to its
    reader.
    """
    weights = [file for file in remote.files if file.is_weights]
    small = {_inside(directory, file): file for file in remote.files if not file.is_weights}
    for file in remote.files:
        max_bytes = MAX_WEIGHT_FILE_BYTES if file.is_weights else MAX_SMALL_FILE_BYTES
        if file.size_bytes > max_bytes:
            raise ModelFormatError(f"{file.path} must have at most {max_bytes} bytes (got {file.size_bytes})")
    download_files(client, small, DownloadMeter(list(small.values()), lambda progress: None))
    with writing("model"):
        _HeaderFetch(client, {_inside(directory, file): file for file in weights}).run()
    return directory / remote.root if remote.root else directory


class _HeaderFetch:
    """The requests for the headers of one model, in several threads."""

    def __init__(self, client: httpx.Client, files: Mapping[Path, RemoteFile]) -> None:
        self._client = client
        self._waiting = deque(files.items())
        self._interruption = Interruption()

    def run(self) -> None:
        """Fetch all headers. Raises ModelSourceError or ModelFormatError."""
        run_in_threads(self._work, min(_MAX_CONNECTIONS, len(self._waiting)), self._interruption)

    def _work(self) -> None:
        while True:
            try:
                target, file = self._waiting.popleft()
            except IndexError:
                return
            self._fetch(target, file)

    def _fetch(self, target: Path, file: RemoteFile) -> None:
        """Write the header of a file to `target`, which has the size of the whole file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
        os.truncate(target, file.size_bytes)
        is_gguf = target.suffix != ".safetensors"
        find_missing = _missing_of_gguf if is_gguf else _missing_of_safetensors
        num_held, num_wanted = 0, min(FIRST_BYTES, file.size_bytes)
        while num_wanted > 0:
            self._fetch_range(file, target, num_held, num_held + num_wanted)
            num_held += num_wanted
            num_wanted = find_missing(target, num_held)
        for factors in _rope_factors(target) if is_gguf else []:
            if factors.stop > num_held:
                self._fetch_range(file, target, factors.start, factors.stop)

    def _fetch_range(self, file: RemoteFile, target: Path, start: int, end: int) -> None:
        """Write these bytes of the file to their place in `target`."""
        attempts = Attempts(file, self._interruption)
        with target.open("r+b") as sink:
            sink.seek(start)
            while (position := sink.tell()) < end:
                try:
                    with request_file(self._client, file, self._interruption, position, end) as answer:
                        _copy(answer, sink, end)
                except InterruptedDownloadError as error:
                    has_new = attempts.is_progress(sink.tell() - position)
                    attempts.fail(error, sink.tell(), has_own=has_new, has_any=has_new)


def _copy(answer: FileAnswer, sink: IO[bytes], end: int) -> None:
    """Copy the answer from the sink's position to `end`. A server without ranges sends the file from its beginning."""
    skip = sink.tell() if answer.is_whole else 0
    if skip > MAX_GGUF_HEADER_BYTES:
        raise NoRangesError(
            f"{answer.response.url.host} sends files only whole, so that a header cannot be fetched alone"
        )
    for chunk in answer.chunks():
        left = end - sink.tell()
        if left == 0:
            return
        sink.write(chunk[skip:][:left])
        skip = max(skip - len(chunk), 0)
        # A range is read to its end, which keeps the connection usable. A whole file has more bytes.
        if answer.is_whole and sink.tell() == end:
            return
    if sink.tell() < end:
        raise InterruptedDownloadError("the connection ended early")


def _missing_of_safetensors(target: Path, num_held: int) -> int:
    """Return how many more bytes the header has."""
    with target.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    # A header that is longer than allowed is not fetched, and its reader refuses it.
    is_possible = header_bytes <= min(MAX_HEADER_BYTES, target.stat().st_size - 8)
    return max(8 + header_bytes - num_held, 0) if is_possible else 0


def _missing_of_gguf(target: Path, num_held: int) -> int:
    """Return how many more bytes to fetch. A file that is damaged within the bytes that are here needs no more."""
    size = target.stat().st_size
    try:
        part = GGUFPart(target)
        part.data.release()
        num_read = part.header_bytes
    except GGUFError as error:
        num_read = error.position
    if num_read <= num_held or num_held == size:
        return 0
    if num_held >= MAX_GGUF_HEADER_BYTES:
        raise ModelFormatError(f"{target.name} has more than {MAX_GGUF_HEADER_BYTES} bytes of metadata")
    return min(num_held * (_GROWTH - 1), size - num_held, MAX_GGUF_HEADER_BYTES - num_held)


def _rope_factors(target: Path) -> list[range]:
    """Return the positions of the rope factors, none for a model without them and for a damaged file."""
    try:
        part = GGUFPart(target)
    except GGUFError:
        return []
    part.data.release()
    tensors = [part.tensors[name] for name in FACTOR_TENSORS if name in part.tensors]
    return [
        range(tensor.offset, tensor.offset + tensor.num_bytes)
        for tensor in tensors
        if tensor.num_bytes <= MAX_ROPE_FACTOR_BYTES
    ]


def _inside(directory: Path, file: RemoteFile) -> Path:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ModelSourceError(f"the source names the file {file.path[:200]!r}, which is not a path inside the model")
    return directory / path
