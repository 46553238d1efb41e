"""The text of a model's chat template: where its files keep it, and in which language a text is written.

Knows nothing about rendering.
"""

import re
from typing import Any

from pagoda.models.gguf_file import GGUFFile
from pagoda.models.model import Model, ModelFormat
from pagoda.models.safetensors_file import read_json

GGUF_TEMPLATE_KEY = "tokenizer.chat_template"
# What begins an expression in Go's templates and never one in Jinja's: a field of the dot, a variable, a keyword.
_GO_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.|\$|(?:range|end|if|else|with|block|define|template|slice)\b)")


def chat_template_text(model: Model) -> str | None:
    """The one in the model's files; None for a base model."""
    if model.format is ModelFormat.GGUF:
        with GGUFFile(model.path) as file:
            return _default(file.metadata.get(GGUF_TEMPLATE_KEY))
    # A file of its own is the newer way and wins over the entry in tokenizer_config.json, as in transformers.
    own_file, config = model.path / "chat_template.jinja", model.path / "tokenizer_config.json"
    if own_file.exists():
        return own_file.read_text(encoding="utf-8")
    return _default(read_json(config).get("chat_template")) if config.exists() else None


def is_go_template(text: str) -> bool:
    """Ollama's own templates are Go's; all of ours are Jinja."""
    return _GO_TEMPLATE.search(text) is not None


def _default(template: Any) -> str | None:
    """One template, or a list of named ones."""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
