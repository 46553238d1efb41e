"""Wheels for requirements, from the user's package index: each resumed where it broke off.

Where we cannot tell its URL, or are refused it, pip has the word: its configuration may say what only pip
understands.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pagoda.models.wheels.index import PackageIndex
from pagoda.models.wheels.index_client import index_client
from pagoda.models.wheels.pip import pip_download, read_pip_settings
from pagoda.models.wheels.resuming_download import (
    DownloadRefusedError,
    PartialFile,
    Report,
    ResumingDownload,
    forget_others,
)
from pagoda.models.wheels.simple_api import FileLink

logger = logging.getLogger(__name__)


def fetch_wheels(requirements: Sequence[str], directory: Path, *, max_bytes: int, report: Report) -> list[Path]:
    """In this order, one after the other. What is in `directory` is gone on with; the wheels may be there or elsewhere.

    `report` hears of all wheels together. No wheel is longer than `max_bytes`.
    """
    with _package_index() as index:
        links = [index.find(requirement) if index else None for requirement in requirements]
        files = [PartialFile(directory, link) for link in links if link is not None]
        if len(files) == len(links):  # otherwise some are of the index that is not reachable today
            forget_others(directory, files)
        report(sum(file.num_bytes for file in files))
        wheels: list[Path] = []
        for number, (requirement, link) in enumerate(zip(requirements, links, strict=True)):
            all_report = _after(sum(wheel.stat().st_size for wheel in wheels), report)
            wheel = None
            if index is not None and link is not None:
                wheel = _fetch(index, link, directory, max_bytes, all_report)
            if wheel is None:
                logger.warning("pip downloads a wheel, which cannot be resumed", extra={"requirement": requirement})
                wheel = pip_download(requirement, directory / f"pip-{number}", all_report)
            wheels.append(wheel)
        return wheels


@contextmanager
def _package_index() -> Iterator[PackageIndex | None]:
    try:
        settings = read_pip_settings()
        client = index_client(settings)
    except Exception as error:  # a proxy of a kind that only pip knows, a certificate that is not there, no pip at all
        logger.info("pip's configuration cannot be followed", extra={"reason": repr(error)})
        yield None
    else:
        with client:
            yield PackageIndex(settings, client)


def _after(completed_bytes: int, report: Report) -> Report:
    return lambda num_bytes: report(completed_bytes + num_bytes)


def _fetch(index: PackageIndex, link: FileLink, directory: Path, max_bytes: int, report: Report) -> Path | None:
    """None where this is not the way."""
    if link.url.startswith("file:"):
        return Path(url2pathname(urlsplit(link.url).path))
    file = PartialFile(directory, link)
    try:
        return ResumingDownload(index.client, link, file, max_bytes=max_bytes, report=report).run()
    except DownloadRefusedError as error:
        logger.info("download refused", extra={"wheel": link.name, "reason": str(error)})
        return None
