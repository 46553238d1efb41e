"""The variables of chat templates that a model's files give: the texts of its special tokens, as `bos_token` and its like.

Knows nothing about rendering.
"""

from collections.abc import Mapping

from pagoda.models.formats.end_tokens import token_text
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model, ModelFormat
from pagoda.text.tokenizer import Tokenizer

GGUF_TOKEN_KEYS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def template_variables(model: Model, tokenizer: Tokenizer) -> Mapping[str, str]:
    """By name; a token that the model lacks is left out."""
    return _from_gguf(model, tokenizer) if model.format is ModelFormat.GGUF else _from_checkpoint(model)


def _from_gguf(model: Model, tokenizer: Tokenizer) -> Mapping[str, str]:
    with GGUFFile(model.path) as file:
        ids = {name: file.metadata.get(key) for name, key in GGUF_TOKEN_KEYS.items()}
    ids["bos_token"] = tokenizer.bos_token_id  # also where the metadata leaves it to the kind of vocabulary
    return {name: tokenizer.token_text(token_id) for name, token_id in ids.items() if isinstance(token_id, int)}


def _from_checkpoint(model: Model) -> Mapping[str, str]:
    config_path = model.path / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    names = {name: token_text(config, name) for name in GGUF_TOKEN_KEYS}
    return {name: text for name, text in names.items() if text is not None}
