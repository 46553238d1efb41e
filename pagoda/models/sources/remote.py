"""A model as its source lists it, before any weight is downloaded."""

from dataclasses import dataclass, field

from pagoda.models.model_settings import ModelSettings

WEIGHT_SUFFIXES = (".gguf", ".safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """One file of a model at its source."""

    path: str
    """Path in the model, with `/`, such as "model.safetensors"."""
    url: str
    size_bytes: int
    sha256: str | None = None
    """SHA-256 in hexadecimal, if the source names it. It always does so for weights."""
    git_oid: str | None = None
    """SHA-1 of git's blob, in hexadecimal, for small files of the hub."""

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

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)
