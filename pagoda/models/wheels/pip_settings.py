"""What the user's pip is configured to use: indexes, proxy, certificates.

Pip itself is asked, so its files, their order and its environment variables all count.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
DEFAULT_INDEX = "https://pypi.org/simple"
DEFAULT_TIMEOUT_S = 15.0
# A later one counts more: for all commands, for the command that we stand in for, from the environment.
_SECTIONS = ("global", "download", ":env:")
_ASK_TIMEOUT_S = 60


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
