"""The store of an Ollama installation, read in place. Nothing in it is ever created, changed, linked or locked.

    manifests/<host>/<namespace>/<model>/<tag>    a model: JSON with its layers
    blobs/sha256-<hex>                            the layers; earlier versions wrote sha256:<hex>

Ollama may change the store at any time. It writes a manifest only when all of its blobs are complete and verified. So a blob's
name is trusted as its digest, and listing models reads no weights.
"""

import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

from pagoda.models.errors import ModelFormatError
from pagoda.models.layout import entries, is_there, subdirectories
from pagoda.models.names import (
    DEFAULT_TAG,
    HUB_HOSTS,
    LIBRARY_HOST,
    LIBRARY_HOSTS,
    LIBRARY_NAMESPACE,
    HubName,
    RegistryName,
    is_hub_address,
    parse_name,
)
from pagoda.models.ollama.layers import OllamaModel, read_model
from pagoda.models.ollama.manifest import MAX_MANIFEST_BYTES, Layer, OllamaManifest, parse_manifest

_BLOB = re.compile(r"sha256[-:]([0-9a-f]{64})")
_BLOB_NAMES = ("sha256-", "sha256:")
_WRITING_S, _MAX_PAUSES, _PAUSE_S = 1.0, 5, 0.01
_DEPTH = 4
"""Number of a manifest's path parts below `manifests`: host, namespace, model and tag."""


class OllamaStore:
    """One store of an Ollama installation, which need not exist."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.blobs = self.directory / "blobs"
        self._manifests = self.directory / "manifests"

    def manifests(self) -> list[Path]:
        """Return the manifests of all models, sorted. Never raises: directories that cannot be listed are logged once."""
        models = [self._manifests]
        for _ in range(_DEPTH - 1):
            models = [below for directory in models for below in subdirectories(directory)]
        return sorted(manifest for model in models for manifest in _files(model))

    def checked_manifests(self) -> list[Path]:
        """Return the manifests of all models. Raises OSError if the store does not exist or cannot be read."""
        with os.scandir(self._manifests):
            return self.manifests()

    def find(self, name: str) -> Path | None:
        """Return the manifest of a model, by its name in any case, or None. Raises ModelNotFoundError for an invalid name.

        Ollama means its registry by `a/b`, Pagoda the hub. So a name without a host finds either, the registry's first.
        """
        return next((found for parts in _places(name) if (found := self._find(*parts)) is not None), None)

    def name_at(self, manifest: Path) -> str:
        """Return the name of the model with this manifest, as Ollama prints it."""
        host, namespace, model, tag = manifest.relative_to(self._manifests).parts
        if host.lower() != LIBRARY_HOST:
            return f"{host}/{namespace}/{model}:{tag}"
        return f"{model}:{tag}" if namespace.lower() == LIBRARY_NAMESPACE else f"{namespace}/{model}:{tag}"

    def has_manifest(self, path: Path) -> bool:
        """Return True if the path is one of a manifest of this store, whether or not it exists."""
        return path.is_relative_to(self._manifests)

    def contains(self, path: Path) -> bool:
        """Return True if the path, or the file that it links to, is in this store."""
        paths = (path.absolute(), _resolved(path))
        return any(
            each.is_relative_to(place) for each in paths for place in (self.directory, _resolved(self.directory))
        )

    def digest_of(self, path: Path) -> str | None:
        """Return the SHA-256 in a blob's name, or None if the path is not one of a blob of this store."""
        match = _BLOB.fullmatch(path.name)
        return match[1] if match is not None and _resolved(path.parent) == _resolved(self.blobs) else None

    def users_of(self, blob: Path) -> list[str]:
        """Return the names of the models that have this blob. Models whose manifest is damaged are left out."""
        digest, users = self.digest_of(blob), []
        for manifest in self.manifests() if digest is not None else ():
            with suppress(OSError, ModelFormatError):
                if any(layer.sha256 == digest for layer in read_stored_manifest(manifest).layers):
                    users.append(self.name_at(manifest))
        return users

    def _find(self, *parts: str) -> Path | None:
        found = [self._manifests]
        for part in parts:
            found = [Path(each.path) for place in found for each in entries(place) if each.name.lower() == part]
        # os.path.isdir raises no error for a path that may not be read.
        return next((path for path in found if is_there(path) and not os.path.isdir(path)), None)


def read_stored_manifest(path: Path) -> OllamaManifest:
    """Read the manifest of a model in an Ollama store. Raises ModelFormatError or OSError."""
    for _ in range(_MAX_PAUSES):
        try:
            return parse_manifest(_read(path, MAX_MANIFEST_BYTES))
        except ModelFormatError:
            # Ollama writes manifests in place, so a new one may be incomplete.
            if time.time() - path.stat().st_mtime > _WRITING_S:
                raise
        time.sleep(_PAUSE_S)
    return parse_manifest(_read(path, MAX_MANIFEST_BYTES))


def read_stored_model(path: Path) -> OllamaModel:
    """Read a model's manifest and its small layers, not its weights. Raises ModelFormatError or OSError."""

    def read(layer: Layer) -> bytes:
        return _read(stored_blob(path, layer), layer.size_bytes)

    return read_model(read_stored_manifest(path), read)


def source_of(manifest: Path) -> str:
    """Return the place that a model in an Ollama store came from: "registry.ollama.ai/library/qwen3:0.6b"."""
    host, namespace, model, tag = manifest.parts[-_DEPTH:]
    return f"{host}/{namespace}/{model}:{tag}"


def stored_blob(manifest: Path, layer: Layer) -> Path:
    """Return the file of a layer. Raises ModelFormatError if it is missing or incomplete."""
    blobs = manifest.parents[_DEPTH] / "blobs"
    for prefix in _BLOB_NAMES:
        blob = blobs / f"{prefix}{layer.sha256}"
        if is_there(blob):
            status = blob.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ModelFormatError(f"the blob {blob.name} is not a file")
            if status.st_size != layer.size_bytes:
                sizes = f"has {status.st_size} bytes (expected {layer.size_bytes})"
                raise ModelFormatError(f"the blob {blob.name} {sizes}; pull the model again")
            return blob
    raise ModelFormatError(f"the blob sha256-{layer.sha256} is missing from Ollama's store; pull the model again")


def _resolved(path: Path) -> Path:
    """Return the path with its links resolved. Path.resolve raises RuntimeError for links that lead in a circle."""
    return Path(os.path.realpath(path))


def _places(name: str) -> list[tuple[str, str, str, str]]:
    """Return the hosts, namespaces, models and tags that a name may mean, in lower case."""
    hosts: tuple[str, ...]
    match parse_name(name):
        case RegistryName(host=host, namespace=namespace, model=model, tag=tag):
            hosts = LIBRARY_HOSTS if host == LIBRARY_HOST else (host,)
        case HubName(revision="", repo=repo, selector=selector):
            namespace, model = repo.split("/")
            tag = selector or DEFAULT_TAG
            hosts = HUB_HOSTS if is_hub_address(name) else (*LIBRARY_HOSTS, *HUB_HOSTS)
        case _:  # Ollama's names have no revision.
            return []
    return [(host, namespace.lower(), model.lower(), tag.lower()) for host in hosts]


def _files(directory: Path) -> list[Path]:
    """Return what is in a directory besides directories. Pipes and links that lead in a circle are refused when they are read."""
    return [path for entry in entries(directory) if not _is_directory(entry) and is_there(path := Path(entry.path))]


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link that leads in a circle.
        return False


def _read(path: Path, max_bytes: int) -> bytes:
    """Return the content of a small file. Raises ModelFormatError for a special file, such as a pipe, and for a larger one."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ModelFormatError(f"{path.name} is not a file")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ModelFormatError(f"{path.name} has more than {max_bytes} bytes")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
