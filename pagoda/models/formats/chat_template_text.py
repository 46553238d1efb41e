"""Finds the text of a model's chat template in its files, and detects the template's language."""

import re
from typing import Any

from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model, ModelFormat

GGUF_TEMPLATE_KEY = "tokenizer.chat_template"
# Beginnings of an expression that occur in Go templates and never in Jinja: a field of the dot, a variable, or a keyword (but
# `range(` is a function of Jinja).
_GO_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.|\$|range\b(?!\s*\()|(?:end|if|else|with|block|define|template|slice)\b)")


def chat_template_text(model: Model) -> str | None:
    """Return the template in the model's files, or None for a base model."""
    entry = _entry(model)
    text = _named(entry).get("default") if isinstance(entry, list) else entry
    return text if isinstance(text, str) else None


def other_template_names(model: Model) -> list[str]:
    """Return the names of the model's templates if it has several and none is called "default"."""
    entry = _entry(model)
    names = _named(entry) if isinstance(entry, list) else {}
    return [] if "default" in names else [str(name) for name in names]


def is_go_template(text: str) -> bool:
    """Return True for a Go template, as Ollama's own are."""
    return _GO_TEMPLATE.search(text) is not None


def _entry(model: Model) -> Any:
    """Return the template, or a list of named ones, or None."""
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return file.metadata.get(GGUF_TEMPLATE_KEY)
    # The separate file is the newer way and has precedence over tokenizer_config.json, as in transformers.
    own_file, config = model.path / "chat_template.jinja", model.path / "tokenizer_config.json"
    if own_file.exists():
        return own_file.read_text(encoding="utf-8")
    return read_json(config).get("chat_template") if config.exists() else None


def _named(entries: list[Any]) -> dict[Any, Any]:
    return {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
