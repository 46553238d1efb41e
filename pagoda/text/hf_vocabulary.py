"""Builds the vocabulary from the tokenizer files of a Hugging Face checkpoint: tokenizer.json and tokenizer_config.json.

A checkpoint that has only a SentencePiece file (tokenizer.model) is refused.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Model

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.end_tokens import END_TOKENS, token_text
from pagoda.models.formats.safetensors_file import read_json
from pagoda.text.byte_alphabet import spelled_bytes
from pagoda.text.vocabulary import Encoders, Vocabulary, add_tokens, can_be_made, piece_bytes, placeholder


def read_vocabulary(directory: Path) -> Vocabulary:
    path = directory / "tokenizer.json"
    if not path.exists():
        raise ModelFormatError(f"{directory} has no tokenizer.json; other tokenizer files are not supported")
    content: dict[str, Any] = read_json(path)
    config_path = directory / "tokenizer_config.json"
    config = read_json(config_path) if config_path.exists() else {}
    try:
        return _vocabulary(content, config)
    except Exception as error:  # damaged files raise many classes of errors, here and in the library
        raise ModelFormatError(f"{path} is damaged or of an unsupported kind: {error!r}") from None


def _vocabulary(content: dict[str, Any], config: Mapping[str, Any]) -> Vocabulary:
    whole = Tokenizer.from_str(json.dumps({**content, "truncation": None, "padding": None}))
    added = [_added_token(entry) for entry in _added_entries(content, config)]
    parsing = _without_template(whole, added)
    ids = {token.content: token_id for token_id, token in parsing.get_added_tokens_decoder().items()}
    special = {token.content: ids[token.content] for token in added if token.special}
    bos_token_id = special.get(token_text(config, "bos_token") or "")
    opening = whole.encode("", add_special_tokens=True).ids
    opens_with_bos = bool(opening) and opening[0] == bos_token_id
    return Vocabulary(
        encoders=Encoders.build(parsing, added, _literal_model(content, parsing, added)),
        token_bytes=_all_token_bytes(content, parsing.get_added_tokens_decoder()),
        special_tokens=special,
        bos_token_id=bos_token_id,
        add_bos=bos_token_id is not None and bool(config.get("add_bos_token", opens_with_bos)),
    )


def _added_entries(content: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of tokenizer.json in order, updated and extended by tokenizer_config.json, as in transformers."""
    entries = {entry["content"]: {**entry} for entry in content.get("added_tokens") or []}
    more = config.get("added_tokens_decoder") or {}
    for token_id, entry in sorted(more.items(), key=lambda item: int(item[0])):
        entries[entry["content"]] = {"id": int(token_id), **entries.get(entry["content"], {}), **entry}
    return list(entries.values())


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(entry[name]) for name in ("lstrip", "rstrip", "single_word") if name in entry}
    special = bool(entry.get("special")) or entry["content"] in END_TOKENS
    return AddedToken(entry["content"], special=special, normalized=bool(entry.get("normalized", not special)), **flags)


def _without_template(whole: Tokenizer, added: Sequence[AddedToken]) -> Tokenizer:
    """Return an encoder without the post-processor, which would add tokens and change offsets."""
    encoder = Tokenizer(whole.model)
    if whole.normalizer is not None:
        encoder.normalizer = whole.normalizer
    if whole.pre_tokenizer is not None:
        encoder.pre_tokenizer = whole.pre_tokenizer
    add_tokens(encoder, added)
    return encoder


def _literal_model(content: Mapping[str, Any], parsing: Tokenizer, added: Sequence[AddedToken]) -> Model:
    """Return a model that cannot produce a control token: the vocabulary's own, or else a copy with renamed control tokens."""
    model = content["model"]
    names = {
        token.content: placeholder(index)
        for index, token in enumerate(added)
        if token.special and token.content != model.get("unk_token")
    }
    merges = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model.get("merges") or []]
    kept = [[left, right] for left, right in merges if not {left, right, left + right} & names.keys()]
    if model["type"] == "BPE" and len(kept) == len(merges):
        whole_words_first = bool(model.get("ignore_merges"))
        known = [name for name in names if name in model["vocab"]]
        if not any(can_be_made(name, parsing.pre_tokenizer, whole_words_first=whole_words_first) for name in known):
            own: Model = parsing.model
            return own
    if isinstance(model["vocab"], list):
        vocabulary: Any = [[names.get(text, text), score] for text, score in model["vocab"]]
    else:
        vocabulary = {names.get(text, text): token_id for text, token_id in model["vocab"].items()}
    renamed = {**model, "vocab": vocabulary} | ({"merges": kept} if merges else {})
    emptied: dict[str, Any] = {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    literal: Model = Tokenizer.from_str(json.dumps({**content, **emptied, "model": renamed})).model
    return literal


def _all_token_bytes(content: dict[str, Any], added: Mapping[int, AddedToken]) -> list[bytes]:
    pieces = content["model"]["vocab"]
    ids = {text: index for index, (text, _) in enumerate(pieces)} if isinstance(pieces, list) else pieces
    spell = spelled_bytes if _is_byte_level(content) else piece_bytes
    by_id = {token_id: spell(token) for token, token_id in ids.items()}
    by_id |= {token_id: b"" if token.special else token.content.encode() for token_id, token in added.items()}
    return [by_id.get(token_id, b"") for token_id in range(max(by_id) + 1)]


def _is_byte_level(content: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
