"""Downloads wheels from the user's package index and resumes interrupted downloads.

If a wheel's URL cannot be determined or the server refuses it, pip downloads the wheel: it may have a configuration that only pip
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
    """Download the wheels one after the other and return their paths, which may be outside `directory`.

    Partial downloads in `directory` are resumed. `report` receives the bytes of all wheels together. A wheel longer than
    `max_bytes` is an error.
    """
    with _package_index() as index:
        links = [index.find(requirement) if index else None for requirement in requirements]
        files = [PartialFile(directory, link) for link in links if link is not None]
        if len(files) == len(links):  # otherwise a part may belong to an index that is unreachable now
            forget_others(directory, files)
        report(sum(file.num_bytes for file in files))
        wheels: list[Path] = []
        for number, (requirement, link) in enumerate(zip(requirements, links, strict=True)):
            all_report = _after(sum(wheel.stat().st_size for wheel in wheels), report)
            wheel = None
            if index is not None and link is not None:
                wheel = _fetch(index, link, directory, max_bytes, all_report)
            if wheel is None:
                logger.warning("downloading with pip, which cannot resume", extra={"requirement": requirement})
                wheel = pip_download(requirement, directory / f"pip-{number}", all_report)
            wheels.append(wheel)
        return wheels


@contextmanager
def _package_index() -> Iterator[PackageIndex | None]:
    try:
        settings = read_pip_settings()
        client = index_client(settings)
    except Exception as error:  # a proxy that only pip supports, a missing certificate, or no pip
        logger.info("pip configuration not usable", extra={"reason": repr(error)})
        yield None
    else:
        with client:
            yield PackageIndex(settings, client)


def _after(completed_bytes: int, report: Report) -> Report:
    return lambda num_bytes: report(completed_bytes + num_bytes)


def _fetch(index: PackageIndex, link: FileLink, directory: Path, max_bytes: int, report: Report) -> Path | None:
    """Return the wheel, or None if it cannot be downloaded in this way."""
    if link.url.startswith("file:"):
        return Path(url2pathname(urlsplit(link.url).path))
    file = PartialFile(directory, link)
    try:
        return ResumingDownload(index.client, link, file, max_bytes=max_bytes, report=report).run()
    except DownloadRefusedError as error:
        logger.info("download refused", extra={"wheel": link.name, "reason": str(error)})
        return None
