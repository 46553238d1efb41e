"""Models of registries that speak Ollama's protocol: Ollama's own registry, mirrors of it, and others by their host.

The manifest and the small layers are read when the model is resolved. Only the weights are downloaded into the store's blobs.
With `insecure`, a registry that is named by its host is asked over plain HTTP, as Ollama does. The default registry is always
asked at the configured address.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.names import LIBRARY_HOST, LIBRARY_NAMESPACE, RegistryName
from pagoda.models.ollama.layers import read_model
from pagoda.models.ollama.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer, parse_manifest
from pagoda.models.scratch import writing
from pagoda.models.sources.progress import DownloadMeter
from pagoda.models.sources.registry_client import NotThereError, get_small, open_client
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import Fetched, Source
from pagoda.models.sources.transfer import download_files

LIBRARY_PAGE = "https://ollama.com/library"
GGUF_FILE = "model.gguf"

# Names are in lower case here, but the registry's tags spell these quantizations with capitals: "8b-instruct-q4_K_M".
_K_QUANT = re.compile(r"(?<=q\d)_k(?:_[sml])?(?![a-z0-9])")


class RegistrySource:
    """One model of a registry."""

    def __init__(self, name: RegistryName, client: httpx.Client, registry_url: str, blobs: Path) -> None:
        """Download the weights into the directory `blobs`, which other pulls may use at the same time."""
        self._name = name
        self._client = client
        self._base = f"{registry_url}/v2/{name.namespace}/{name.model}"
        self._blobs = blobs

    @property
    def client(self) -> httpx.Client:
        return self._client

    def resolve(self) -> RemoteModel:
        """Return the model, after its small layers were read and verified."""
        data = self._manifest()
        try:
            manifest = parse_manifest(data)
        except ModelFormatError as error:
            raise ModelSourceError(f"{self._name.host} sent no usable answer for {self._name}: {error}") from None
        try:
            model = read_model(manifest, self._read_layer)
        except ModelFormatError as error:
            raise ModelFormatError(f"{self._name} cannot be used: {error}") from None
        weights = RemoteFile(
            path=GGUF_FILE,
            url=self._blob_url(model.weights),
            size_bytes=model.weights.size_bytes,
            sha256=model.weights.sha256,
        )
        return RemoteModel(
            name=_display_name(self._name),
            source=str(self._name),
            version=manifest.digest,
            files=(weights,),
            root=GGUF_FILE,
            settings=model.settings,
            warnings=model.warnings,
        )

    def fetch(self, remote: RemoteModel, meter: DownloadMeter) -> Fetched:
        """Download the weights, unless another model of the store has the same."""
        blobs = {self._blobs / f"sha256-{file.sha256}": file for file in remote.files}
        for blob, file in blobs.items():
            self._delete_damaged(blob, file)
        try:
            download_files(self._client, blobs, meter)
        except ModelSourceError:
            if self._has_changed(remote):
                raise ModelSourceError(
                    f"{self._name} was changed at {self._name.host} during the download; pull it again"
                ) from None
            raise
        return Fetched(files={file.path: blob for blob, file in blobs.items()})

    def _has_changed(self, remote: RemoteModel) -> bool:
        try:
            return parse_manifest(self._manifest(retries=False)).digest != remote.version
        except ModelError:
            return False

    def _manifest(self, *, retries: bool = True) -> bytes:
        tag, headers = self._name.tag, {"Accept": MANIFEST_TYPE}
        for spelled in dict.fromkeys((tag, _K_QUANT.sub(lambda match: match[0].upper(), tag))):
            url = f"{self._base}/manifests/{spelled}"
            try:
                return get_small(self._client, url, max_bytes=MAX_MANIFEST_BYTES, headers=headers, retries=retries)
            except NotThereError:
                continue
        is_library = (self._name.host, self._name.namespace) == (LIBRARY_HOST, LIBRARY_NAMESPACE)
        library = f"; its library: {LIBRARY_PAGE}" if is_library else ""
        raise ModelNotFoundError(f"{_display_name(self._name)} is not at {self._name.host}{library}")

    def _read_layer(self, layer: Layer) -> bytes:
        try:
            data = get_small(self._client, self._blob_url(layer), max_bytes=layer.size_bytes)
        except NotThereError:
            raise ModelSourceError(
                f"{self._name.host} has the manifest of {self._name} but not its {layer.kind} layer "
                f"(sha256:{layer.sha256[:12]}); try again later"
            ) from None
        found = hashlib.sha256(data).hexdigest()
        if len(data) == layer.size_bytes and found == layer.sha256:
            return data
        size = f"more than {layer.size_bytes}" if len(data) > layer.size_bytes else len(data)
        raise ModelSourceError(
            f"SHA-256 mismatch for the {layer.kind} layer of {self._name} "
            f"(expected {layer.sha256} in {layer.size_bytes} bytes, got {found} in {size})"
        )

    def _blob_url(self, layer: Layer) -> str:
        return f"{self._base}/blobs/sha256:{layer.sha256}"

    def _delete_damaged(self, blob: Path, file: RemoteFile) -> None:
        """Delete the blob if it is in the store with another content. A blob of the right content is not downloaded again."""
        digests = DigestCache(self._blobs.with_name("digests.json"))
        with writing("model"), suppress(FileNotFoundError):
            if blob.stat().st_size != file.size_bytes or digests.file_digest(blob) != file.sha256:
                blob.unlink()


@contextmanager
def open_registry(name: RegistryName, settings: SourceSettings, blobs: Path, *, insecure: bool) -> Iterator[Source]:
    """Open the registry of a name. Raises ModelSourceError if only files on this machine may be used."""
    if settings.is_offline:
        raise ModelSourceError(f"{name} is not downloaded, because HF_HUB_OFFLINE is set")
    scheme = "http" if insecure else "https"
    registry_url = settings.registry_url if name.host == LIBRARY_HOST else f"{scheme}://{name.host}"
    with open_client(registry_url) as client:
        yield RegistrySource(name, client, registry_url, blobs)


def _display_name(name: RegistryName) -> str:
    """Return the name as Ollama prints it, without the default host and namespace."""
    if name.host != LIBRARY_HOST:
        return str(name)
    namespace = "" if name.namespace == LIBRARY_NAMESPACE else f"{name.namespace}/"
    return f"{namespace}{name.model}:{name.tag}"
