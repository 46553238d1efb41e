"""Headers (being written)."""

from pathlib import Path

import httpx

from pagoda.models.sources.remote import RemoteModel


def is_checkable(remote: RemoteModel) -> bool:
    """Return True if the headers of the model's weights can be read without the weights."""
    return all(file.url for file in remote.files)


def fetch_headers(client: httpx.Client, remote: RemoteModel, directory: Path) -> Path:
    """Fetch small files, and of weights only the headers, into `directory`. Return the model's path there."""
    raise NotImplementedError
