"""Downloads of files over HTTP: resumed after a broken connection and in later processes, and verified."""

from collections.abc import Mapping
from pathlib import Path

import httpx

from pagoda.models.errors import ModelSourceError
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteFile

PARTIAL_SUFFIX = ".partial"
"""Ending of an unfinished file beside its target."""


def download_files(client: httpx.Client, files: Mapping[Path, RemoteFile], meter: DownloadMeter) -> None:
    """Download each file to its target path, complete and verified or not at all. Raises ModelSourceError."""
    raise ModelSourceError("being written")
