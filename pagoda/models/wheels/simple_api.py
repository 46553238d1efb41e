"""Parsers for the pages of a package index (Simple Repository API): JSON (PEP 691) or HTML (PEP 503)."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, unquote, urldefrag, urljoin, urlsplit

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLink:
    """A link to a file on an index page."""

    name: str
    url: str
    """Absolute URL without fragment."""
    sha256: str | None = None
    size_bytes: int | None = None
    yanked: bool = False
    """True if the file was withdrawn. It is used only if there is no other."""


def links_of_json(text: str, page_url: str) -> Iterator[FileLink]:
    for file in json.loads(text)["files"]:
        size = file.get("size")
        yield FileLink(
            name=str(file["filename"]),
            url=urldefrag(urljoin(page_url, str(file["url"]))).url,
            sha256=_sha256(file.get("hashes", {}).get("sha256")),
            size_bytes=size if isinstance(size, int) else None,
            yanked=bool(file.get("yanked")),
        )


def links_of_html(text: str, page_url: str) -> Iterator[FileLink]:
    page = _Page()
    page.feed(text)
    for anchor in page.anchors:
        url, fragment = urldefrag(urljoin(urljoin(page_url, page.base), anchor["href"] or ""))
        yield FileLink(
            name=unquote(urlsplit(url).path.rpartition("/")[2]),
            url=url,
            sha256=_sha256(parse_qs(fragment).get("sha256", [None])[0]),
            yanked="data-yanked" in anchor,
        )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.anchors: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            self.anchors.append(attributes)
        elif tag == "base":
            self.base = self.base or attributes.get("href") or ""


def _sha256(value: Any) -> str | None:
    """Return the value if it is a SHA-256, because it becomes a file name."""
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None
