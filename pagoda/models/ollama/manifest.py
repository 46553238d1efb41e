"""Manifests of Ollama's registry and store: a model as a list of layers, each a blob."""

import hashlib
import json
import re
from dataclasses import dataclass

from pagoda.models.errors import ModelFormatError

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX = "application/vnd.ollama.image."
"""Beginning of the media types of layers. The rest is the kind, such as "model" or "template"."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_LAYERS = 4096
MAX_LAYER_BYTES = 1 << 50

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_MAX_TYPE_CHARACTERS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of a model."""

    media_type: str
    sha256: str
    """SHA-256 of the blob, in hexadecimal."""
    size_bytes: int

    @property
    def kind(self) -> str:
        """Kind of the layer: "model", "config" and so on, or the media type itself if it is not one of Ollama's."""
        return "config" if self.media_type == CONFIG_TYPE else self.media_type.removeprefix(LAYER_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaManifest:
    """A manifest, as a registry sends it and a store keeps it."""

    layers: tuple[Layer, ...]
    config: Layer | None
    digest: str
    """SHA-256 of the manifest's bytes, in hexadecimal. Ollama shows it as the model's ID."""

    def of_kind(self, *kinds: str) -> list[Layer]:
        """Return the layers of these kinds, in the manifest's order."""
        return [layer for layer in self.layers if layer.kind in kinds]


def parse_manifest(data: bytes) -> OllamaManifest:
    """Parse a manifest. Raises ModelFormatError for anything that is not one."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelFormatError(f"the model's manifest has {len(data)} bytes (at most {MAX_MANIFEST_BYTES} are allowed)")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise _damaged("it is not JSON") from None
    match content:
        case {"layers": list(layers)}:
            pass
        case _:
            raise _damaged("it has no list of layers")
    if len(layers) > MAX_LAYERS:
        raise ModelFormatError(f"the model's manifest has {len(layers)} layers (at most {MAX_LAYERS} are allowed)")
    return OllamaManifest(
        layers=tuple(_layer(f"layer {number}", each) for number, each in enumerate(layers)),
        config=_config(content.get("config")),
        digest=hashlib.sha256(data).hexdigest(),
    )


def _config(content: object) -> Layer | None:
    # Ollama writes an empty digest if a model has no configuration.
    match content:
        case None | {"digest": ""}:
            return None
        case {"digest": digest, **rest}:
            return _layer("its config", {"mediaType": CONFIG_TYPE, **rest, "digest": digest})
        case dict():
            return None
    raise _damaged("its config is not an object")


def _layer(what: str, content: object) -> Layer:
    match content:
        case {"mediaType": str(media_type), "digest": str(digest), "size": int(size)} if not isinstance(size, bool):
            pass
        case _:
            raise _damaged(f"{what} has no mediaType, digest and size")
    if len(media_type) > _MAX_TYPE_CHARACTERS or not media_type.isprintable():
        raise _damaged(f"the mediaType of {what} is too long or not text")
    if (match := _DIGEST.fullmatch(digest)) is None:
        raise _damaged(f"the digest of {what} is {digest[:80]!r} (expected sha256: and 64 hex digits)")
    if not 0 <= size <= MAX_LAYER_BYTES:
        raise _damaged(f"the size of {what} must be between 0 and {MAX_LAYER_BYTES} bytes")
    return Layer(media_type=media_type, sha256=match[1].lower(), size_bytes=size)


def _damaged(reason: str) -> ModelFormatError:
    return ModelFormatError(f"the model's manifest is damaged: {reason}")
