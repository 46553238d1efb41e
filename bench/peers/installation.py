"""Virtual environments for the peers, one each, so that their dependencies do not conflict with others or ours.

A complete environment with the same packages is reused.
"""

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.errors import PeerError

STAMP = "installed.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """The packages of an environment."""

    install: Sequence[str]
    """Requirements for pip."""
    remove: Sequence[str] = ()
    """Dependencies to uninstall afterwards."""


def install(directory: Path, packages: Packages) -> Path:
    """Install the packages if needed and return the environment's Python. Raises PeerError with the end of pip's output."""
    python = directory / "bin" / "python"
    stamp = directory / STAMP
    wanted = json.dumps({"install": [*packages.install], "remove": [*packages.remove]})
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Installing {', '.join(packages.install)} into {directory} (once) …", file=sys.stderr, flush=True)
    venv.create(directory, with_pip=True, clear=True)
    _pip(python, "install", *packages.install)
    if packages.remove:
        _pip(python, "uninstall", "--yes", *packages.remove)
    stamp.write_text(wanted)
    return python


def _pip(python: Path, *arguments: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise PeerError.from_output(f"pip {arguments[0]} failed", done.stdout)
