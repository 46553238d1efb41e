"""A model as its source lists it, before any weight is downloaded."""

import hashlib
from dataclasses import dataclass, field

from pagoda.models.model_settings import ModelSettings

WEIGHT_SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a model at its source."""

    path: str
    """Path in the model, with `/`, such as "model.safetensors"."""
    url: str = ""
    """Address of the file. It is empty in listings of the hub, and if the model's weights are on this machine."""
    size_bytes: int
    sha256: str | None = None
    """SHA-256 in hexadecimal, if the source names it. It always does so for weights."""
    git_oid: str | None = None
    """SHA-1 of git's blob, in hexadecimal, for small files of the hub."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def digest(self) -> str | None:
        """Digest that verifies the content, or None if the source names none. It names the content in the hub's cache."""
        return self.sha256 or self.git_oid

    def new_hash(self) -> "hashlib._Hash":
        """Return the hash that computes the digest of a content. Git hashes a blob after a header with its size."""
        if self.sha256 is not None or self.git_oid is None:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size_bytes, usedforsecurity=False)

    @property
    def is_weights(self) -> bool:
        return self.path.endswith(WEIGHT_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteModel:
    """A model at its source: all that is needed to download it, or only its headers."""

    name: str
    """Spelling of the name in lists, such as "Qwen/Qwen3-0.6B"."""
    source: str
    """Place and version, for the manifest and messages: "hf.co/Qwen/Qwen3-0.6B@c1899de2…"."""
    version: str
    """Text that changes whenever any file of the model changes, such as the commit or the manifest's digest."""
    files: tuple[RemoteFile, ...]
    """The files to download, weights and others."""
    root: str
    """Path of the GGUF file (the first, if the model is split), or "" for a checkpoint, whose files have no directory."""
    settings: ModelSettings = field(default_factory=ModelSettings)
    """Settings that the source has besides the files: system prompt, parameters, template, messages, license."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user about what Pagoda does not use of this model."""
    is_cached: bool = False
    """True if the weights are on this machine already, in the hub's cache."""

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)
