"""What a model brings along besides its weights: a system prompt, parameters, a template, opening messages, a license.

They stand in the manifest of a model that was made by `create`; a model without a manifest has none. The gateway
acts on them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.layout import MANIFEST
from pagoda.models.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    parent: str = ""
    """The model that it was made from."""
    system: str = ""
    template: str = ""
    """In place of the one in the model's files."""
    license: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Ollama's `options`, for requests that leave them open."""
    messages: Sequence[Mapping[str, Any]] = ()
    """Stand before those of each conversation."""

    def to_json(self) -> dict[str, Any]:
        """Without what is empty."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        plain = {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value}


def model_digest(model: Model, settings: ModelSettings) -> str:
    """Return the sha256, hexadecimal, of all that the model's answers depend on: its files and its own settings.

    Where it has none, that is the files' digest. The name and what it was made from are not part of it.
    """
    content = {name: value for name, value in settings.to_json().items() if name != "parent"}
    if not content:
        return model.digest
    text = json.dumps({"files": model.digest, "settings": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_settings(model: Model) -> ModelSettings:
    manifest = model.path.parent / MANIFEST
    # A file of the same name beside a model that is not in the store says nothing about it.
    content = read_json(manifest) if manifest.exists() else {}
    stored = content.get("settings") if content.get("file") == model.path.name else None
    if not isinstance(stored, dict):
        return ModelSettings()
    try:
        settings = ModelSettings(**stored)
        if not isinstance(settings.parameters, Mapping):
            raise TypeError
        return settings
    except TypeError:
        raise ModelFormatError(f"{manifest} has settings of an unknown kind; create the model again") from None
