"""Where a model's files keep the chat template, and the texts of the special tokens that templates name.

Knows nothing about rendering.
"""

from collections.abc import Mapping
from typing import Any

from gateway.hf_vocabulary import token_name
from gateway.tokenizer import Tokenizer
from pagoda.models.gguf_file import GGUFFile
from pagoda.models.model import Model, ModelFormat
from pagoda.models.safetensors_file import read_json

GGUF_TOKEN_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
TemplateSource = tuple[str | None, Mapping[str, str]]
"""The template, None if the model has none, and the special tokens' texts by variable name."""


def read_template(model: Model, tokenizer: Tokenizer) -> TemplateSource:
    return _from_gguf(model, tokenizer) if model.format is ModelFormat.GGUF else _from_checkpoint(model)


def template_source(model: Model) -> str | None:
    """The template alone, which needs no tokenizer."""
    if model.format is ModelFormat.SAFETENSORS:
        return _from_checkpoint(model)[0]
    with GGUFFile(model.path) as file:
        source = file.metadata.get("tokenizer.chat_template")
    return source if isinstance(source, str) else None


def _from_gguf(model: Model, tokenizer: Tokenizer) -> TemplateSource:
    with GGUFFile(model.path) as file:
        metadata = file.metadata
    ids = {name: metadata.get(key) for name, key in GGUF_TOKEN_KEYS.items()}
    texts = {name: tokenizer.token_text(token_id) for name, token_id in ids.items() if isinstance(token_id, int)}
    source = metadata.get("tokenizer.chat_template")
    return source if isinstance(source, str) else None, texts


def _from_checkpoint(model: Model) -> TemplateSource:
    """A file of its own is the newer way and wins over the entry in tokenizer_config.json, as in transformers."""
    config_path = model.path / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    names = {name: token_name(config, name) for name in GGUF_TOKEN_KEYS}
    texts = {name: text for name, text in names.items() if text is not None}
    own_file = model.path / "chat_template.jinja"
    source = own_file.read_text(encoding="utf-8") if own_file.exists() else _default(config.get("chat_template"))
    return source, texts


def _default(template: Any) -> str | None:
    """One template, or a list of named ones."""
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
