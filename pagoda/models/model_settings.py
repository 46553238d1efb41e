"""Settings of a model besides its weights: system prompt, parameters, template, opening messages, license."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from pagoda.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The settings of one model."""

    parent: str = ""
    """Name of the model that this one was made from."""
    system: str = ""
    template: str = ""
    """Chat template that replaces the one in the model's files."""
    license: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Default values of Ollama's `options`, for requests that leave them out."""
    messages: Sequence[Mapping[str, Any]] = ()
    """Messages put before those of each conversation."""

    def to_json(self) -> dict[str, Any]:
        """Return the settings that are not empty."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value}


def model_digest(model: Model, settings: ModelSettings) -> str:
    """Return the SHA-256, in hexadecimal, of everything that answers depend on: the model's files and its settings.

    Without settings it is the files' digest. The model's name and parent are not included.
    """
    content = {name: value for name, value in settings.to_json().items() if name != "parent"}
    if not content:
        return model.digest
    text = json.dumps({"files": model.digest, "settings": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
