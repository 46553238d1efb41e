"""Manifests of Ollama's registry and store: a model as a list of layers, each a blob."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a model."""

    media_type: str
    sha256: str
    """SHA-256 of the blob, in hexadecimal."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaManifest:
    """A manifest, as a registry sends it and a store keeps it."""

    layers: tuple[Layer, ...]
    config: Layer | None
    digest: str
    """SHA-256 of the manifest's bytes, in hexadecimal. Ollama shows it as the model's ID."""
