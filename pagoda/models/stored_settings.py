"""Reads the settings and the source of a model from its manifest. A model that was named by its path has neither."""

from collections.abc import Mapping

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.store import read_stored_model, source_of


def read_settings(model: Model) -> ModelSettings:
    """Return the model's settings. Raises ModelFormatError for a damaged manifest."""
    if model.in_ollama_store and model.manifest is not None:
        return read_stored_model(model.manifest).settings
    stored = read_json(model.manifest).get("settings") if model.manifest is not None else None
    if not isinstance(stored, dict):
        return ModelSettings()
    try:
        settings = ModelSettings(**stored)
        if not isinstance(settings.parameters, Mapping):
            raise TypeError
        return settings
    except TypeError:
        raise ModelFormatError(f"{model.manifest} has unknown settings; create the model again") from None


def read_source(model: Model) -> str | None:
    """Return the place that the model's weights came from, such as "registry.ollama.ai/library/qwen3:0.6b", or None."""
    if model.in_ollama_store and model.manifest is not None:
        return source_of(model.manifest)
    source = read_json(model.manifest).get("source") if model.manifest is not None else None
    return source if isinstance(source, str) else None
