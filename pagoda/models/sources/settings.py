"""Settings of the sources, from the environment variables that people already have for the hub and for Ollama."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pagoda.models.errors import ModelSourceError

DEFAULT_HUB = "https://huggingface.co"
DEFAULT_REGISTRY = "https://registry.ollama.ai"
REGISTRY_VARIABLE = "PAGODA_REGISTRY"
_TRUE = ("1", "on", "yes", "true")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """The places that models come from. None means the default of the library that reads the setting."""

    hub_url: str = DEFAULT_HUB
    """Address of the hub or of a mirror: HF_ENDPOINT."""
    hub_token: str | None = field(default=None, repr=False)
    """Token for gated and private repositories: HF_TOKEN, or the file at HF_TOKEN_PATH."""
    hub_cache: Path | None = None
    """Directory of the hub's cache: HF_HUB_CACHE, else HF_HOME/hub."""
    is_offline: bool = False
    """True if only files on this machine may be used: HF_HUB_OFFLINE, else TRANSFORMERS_OFFLINE."""
    registry_url: str = DEFAULT_REGISTRY
    """Address of Ollama's registry or of a mirror: PAGODA_REGISTRY."""
    ollama_stores: tuple[Path, ...] = ()
    """Directories where Ollama keeps models, which are served in place: OLLAMA_MODELS, else Ollama's own places."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the variables. Raises ModelSourceError for a malformed one."""
        values = os.environ if environment is None else environment
        registry = values.get(REGISTRY_VARIABLE) or DEFAULT_REGISTRY
        if not registry.startswith(("http://", "https://")):
            raise ModelSourceError(f"{REGISTRY_VARIABLE} must be an http or https address (got {registry!r})")
        cache = os.path.expandvars(os.path.expanduser(values.get("HF_HUB_CACHE", "")))
        own = values.get("OLLAMA_MODELS", "").strip()
        places = [own] if own else ["~/.ollama/models", "/usr/share/ollama/.ollama/models"]
        return cls(
            hub_url=values.get("HF_ENDPOINT") or DEFAULT_HUB,
            hub_cache=Path(cache) if cache else None,
            is_offline=(values.get("HF_HUB_OFFLINE") or values.get("TRANSFORMERS_OFFLINE", "")).lower() in _TRUE,
            registry_url=registry.rstrip("/"),
            # Unlike Path.expanduser, this raises no error for a user without a home directory.
            ollama_stores=tuple(Path(os.path.expanduser(place)) for place in places),
        )
