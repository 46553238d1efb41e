"""The interface of a source: it lists one model, and downloads its files."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.remote import RemoteModel

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A model's files on disk after the download, complete and verified."""

    files: Mapping[str, Path]
    """Files on disk by their paths in the model."""
    stays_at: Path | None = None
    """GGUF file or checkpoint directory that stays in its place, as in the hub's cache. None if the store takes the files over."""


class Source(Protocol):
    """One model at its source, with an open connection."""

    @property
    def client(self) -> "httpx.Client":
        """HTTP client that has the source's credentials and sends them to no other host."""

    def resolve(self) -> RemoteModel:
        """Ask the source for the model. Raises ModelNotFoundError or ModelSourceError."""

    def fetch(self, remote: RemoteModel, meter: DownloadMeter) -> Fetched:
        """Download the files that are not here yet, and continue interrupted downloads. Raises ModelSourceError."""


OpenSource = AbstractContextManager[Source]
"""A source that is closed after the block."""
