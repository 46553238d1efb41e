"""Builds the vocabulary from the tokenizer files of a Hugging Face checkpoint: tokenizer.json and tokenizer_config.json.

Knows nothing about weights. Checkpoints with a SentencePiece file alone (tokenizer.model) are refused.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from gateway.byte_alphabet import spelled_bytes
from gateway.vocabulary import Vocabulary, piece_bytes
from pagoda.models.errors import ModelFormatError
from pagoda.models.safetensors_file import read_json


def read_vocabulary(directory: Path) -> Vocabulary:
    path = directory / "tokenizer.json"
    if not path.exists():
        raise ModelFormatError(f"{directory} has no tokenizer.json (other tokenizer files are not supported)")
    content: dict[str, Any] = read_json(path)
    config_path = directory / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    try:
        return _vocabulary(content, config)
    except Exception as error:  # damaged files end in any of a dozen classes, here and in the library
        raise ModelFormatError(f"{path} is damaged or of an unknown kind: {error!r}") from None


def _vocabulary(content: dict[str, Any], config: Mapping[str, Any]) -> Vocabulary:
    added = {token["content"]: token for token in content.get("added_tokens") or []}
    special = {text: int(token["id"]) for text, token in added.items() if token["special"]}
    bos_token_id = special.get(token_name(config, "bos_token") or "")
    opening = Tokenizer.from_str(json.dumps(content)).encode("", add_special_tokens=True).ids
    opens_with_bos = bool(opening) and opening[0] == bos_token_id
    return Vocabulary(
        encoder=_encoder(content),
        token_bytes=_all_token_bytes(content, added),
        special_tokens=special,
        bos_token_id=bos_token_id,
        add_bos=bos_token_id is not None and bool(config.get("add_bos_token", opens_with_bos)),
    )


def token_name(config: Mapping[str, Any], key: str) -> str | None:
    """tokenizer_config.json spells a special token as text, or as an object with the text in "content"."""
    value = config.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def _encoder(content: dict[str, Any]) -> Tokenizer:
    """Treats special tokens in a text as text, and lacks the template that would add some."""
    without_template = {"post_processor": None, "truncation": None, "padding": None}
    encoder = Tokenizer.from_str(json.dumps({**content, **without_template}))
    encoder.encode_special_tokens = True
    return encoder


def _all_token_bytes(content: dict[str, Any], added: Mapping[str, Any]) -> list[bytes]:
    vocabulary: dict[str, int] = content["model"]["vocab"]
    spell = spelled_bytes if _is_byte_level(content) else piece_bytes
    by_id = {token_id: spell(token) for token, token_id in vocabulary.items() if token not in added}
    by_id |= {int(token["id"]): b"" if token["special"] else text.encode() for text, token in added.items()}
    return [by_id.get(token_id, b"") for token_id in range(max(by_id) + 1)]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
