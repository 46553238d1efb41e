"""Models of registries that speak Ollama's protocol."""

from pathlib import Path

from pagoda.models.errors import ModelSourceError
from pagoda.models.names import RegistryName
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.sources.source import OpenSource


def open_registry(name: RegistryName, settings: SourceSettings, blobs: Path, *, insecure: bool) -> OpenSource:
    raise ModelSourceError(f"{name}: being written")
