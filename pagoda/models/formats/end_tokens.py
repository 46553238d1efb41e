"""End tokens, which end a generation: their usual names, and how to find them in a checkpoint's files.

gguf_tokens.py finds them in a GGUF file.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pagoda.models.formats.safetensors_file import read_json

logger = logging.getLogger(__name__)

END_TOKENS = frozenset(
    (
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|calls|>",
        "<|flush|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_turn>",
        "<end_of_utterance>",
        "<turn|>",
        "<|tool_response>",
        "<eos>",
        "<EOT>",
        "_<EOT>",
        "▁<EOT>",
        "< EOT >",
        "[EOT]",
        "[EOS]",
        "[e~[",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
    )
)
"""Names of tokens that end a generation whatever type their file gives them. This is llama.cpp's list; people do not write them."""

AMBIGUOUS_END_TOKENS = frozenset(("</s>",))
"""Names of tokens that end a generation only if they are control tokens: Gemma has a "</s>" that is HTML."""

_CALLING = tuple({call, other} for call in ("<|call|>", "<|calls|>") for other in ("<|return|>", "<|flush|>"))
"""Pairs of tokens of formats with several messages in one answer, where "<|end|>" ends a message and not the answer."""


def without_message_ends(ends: Mapping[int, str]) -> list[int]:
    """Return the ids of `ends` (id to name) without those that only end a message, which depends on the other tokens."""
    names = set(ends.values())
    dropped: set[str] = {"<|end|>"} if any(calling <= names for calling in _CALLING) else set()
    dropped |= {"</s>"} if "<|tool_response>" in names else set()
    return [token_id for token_id, name in ends.items() if name not in dropped]


def inside_vocabulary(token_ids: Iterable[int], vocab_size: int, path: Path) -> tuple[int, ...]:
    """Return each id once, without ids that the model cannot compute, which are logged."""
    ids = tuple(dict.fromkeys(token_ids))
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            fields = {"path": str(path), "token_id": token_id, "vocab_size": vocab_size}
            logger.warning("end token ignored; it is outside the vocabulary", extra=fields)
    return tuple(token_id for token_id in ids if 0 <= token_id < vocab_size)


def read_checkpoint_end_tokens(directory: Path) -> tuple[int, ...]:
    """Return the end tokens of all files of a checkpoint: generation_config.json often adds the end of a turn."""
    contents = {path.name: read_json(path) for path in map(directory.joinpath, _FILES) if path.exists()}
    ids = [*_configured_ids(contents.get("generation_config.json", {}))]
    config = contents.get("config.json", {})
    nested = config.get("text_config")
    ids += [*_configured_ids(config), *(_configured_ids(nested) if isinstance(nested, dict) else ())]
    added = _added_tokens(contents)
    ids_by_name = _ids_by_name(contents)
    named = (
        token_text(contents.get(name, {}), "eos_token") for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    ids += [ids_by_name[text] for text in named if text in ids_by_name]
    ends = {
        token_id: text
        for token_id, (text, special) in added.items()
        if text in END_TOKENS or (special and text in AMBIGUOUS_END_TOKENS)
    }
    return tuple(dict.fromkeys([*ids, *without_message_ends(ends)]))


def checkpoint_ids_by_name(directory: Path) -> dict[str, int]:
    """Return the ids of all tokens of a checkpoint by name, with its added tokens."""
    return _ids_by_name({path.name: read_json(path) for path in map(directory.joinpath, _FILES) if path.exists()})


def token_text(config: Mapping[str, Any], key: str) -> str | None:
    """Return the text of a special token, which tokenizer_config.json has as a string or as an object with "content"."""
    value = config.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


_FILES = (
    "generation_config.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def _ids_by_name(contents: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    added = {text: token_id for token_id, (text, _) in _added_tokens(contents).items()}
    return _vocabulary(contents.get("tokenizer.json", {})) | added


def _configured_ids(content: Mapping[str, Any]) -> Iterator[int]:
    """Yield the ids in `eos_token_id`, which is a number, a list of numbers, or absent."""
    value = content.get("eos_token_id")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int) and not isinstance(item, bool):
            yield item


def _added_tokens(contents: Mapping[str, Mapping[str, Any]]) -> dict[int, tuple[str, bool]]:
    """Return a map from id to text and a flag for special tokens, from all files. tokenizer.json has the highest precedence."""
    added: dict[int, tuple[str, bool]] = {}
    for text, token_id in contents.get("added_tokens.json", {}).items():
        if isinstance(token_id, int):
            added[token_id] = (text, False)
    decoder = contents.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    listed = contents.get("tokenizer.json", {}).get("added_tokens")
    entries = [*decoder.items()] if isinstance(decoder, dict) else []
    entries += (
        [(entry.get("id"), entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    )
    for token_id, entry in entries:
        if str(token_id).isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            added[int(token_id)] = (entry["content"], entry.get("special") is True)
    return added


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the model's own pieces by text. The file has a table, or a list for Unigram models."""
    model = tokenizer.get("model")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(pieces, list):
        return {
            entry[0]: index
            for index, entry in enumerate(pieces)
            if isinstance(entry, list) and entry and isinstance(entry[0], str)
        }
    return {text: value for text, value in pieces.items() if isinstance(value, int)} if isinstance(pieces, dict) else {}
