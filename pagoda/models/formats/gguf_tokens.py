"""Reads a GGUF file's tokens from its metadata: their texts, their types, and which of them end a generation.

As in llama.cpp, a token with the name of a control token is one, whatever type the file gives it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.config_values import items
from pagoda.models.formats.end_tokens import AMBIGUOUS_END_TOKENS, END_TOKENS, without_message_ends
from pagoda.models.formats.gguf_file import GGUFFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.cpp's token types."""

PREFIX = "tokenizer.ggml."
END_TOKEN_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
SENTENCEPIECE_BOS, SENTENCEPIECE_EOS = 1, 2
"""Default ids of the beginning and end tokens in a vocabulary of the kind "llama"."""

FILL_ENDS: Mapping[str, frozenset[str]] = {
    "fim_pad_token_id": frozenset(("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    "fim_rep_token_id": frozenset(("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    "fim_sep_token_id": frozenset(("<|file_sep|>",)),
}
"""Tokens that end text for a gap (fill in the middle): metadata keys, and the tokens' names if the key is absent."""
FILL_TOKENS = frozenset(
    (
        *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
        *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
        *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
        *("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
        *frozenset().union(*FILL_ENDS.values()),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GGUFTokens:
    """The tokens of a GGUF file."""

    texts: list[str]
    types: list[int]
    """Type of each text."""
    bos_token_id: int | None
    end_token_ids: tuple[int, ...]
    """Ids of tokens that end a generation, in no particular order. Some may be outside the vocabulary."""


def token_metadata(file: GGUFFile) -> Mapping[str, Any]:
    """Return the metadata. In that of Gemma 3, tokens without an embedding are left out.

    Ollama's converter leaves tokens for images in the vocabulary, of which the embedding has no rows.
    """
    metadata, embedding = file.metadata, file.tensors.get("token_embd.weight")
    if metadata.get("general.architecture") != "gemma3" or embedding is None:
        return metadata
    lists = {key: metadata.get(PREFIX + key) for key in ("tokens", "scores", "token_type")}
    cut = {PREFIX + key: value[: embedding.shape[0]] for key, value in lists.items() if isinstance(value, list)}
    return {**metadata, **cut}


def read_tokens(metadata: Mapping[str, Any]) -> GGUFTokens:
    """Read the tokens. Without types, all are NORMAL. Raises ModelFormatError for lists of different lengths."""
    texts = items(metadata, f"{PREFIX}tokens", str)
    types = list(items(metadata, f"{PREFIX}token_type", int)) or [NORMAL] * len(texts)
    if len(types) != len(texts):
        raise ModelFormatError(f"the vocabulary has {len(texts)} tokens and {len(types)} token types")
    for token_id in _mistyped(metadata, texts, types):
        types[token_id] = CONTROL
    sentencepiece = metadata.get(f"{PREFIX}model") == "llama"
    bos = _named_id(metadata, "bos_token_id")
    if bos is None and sentencepiece and _is_control(SENTENCEPIECE_BOS, types):
        bos = SENTENCEPIECE_BOS
    return GGUFTokens(texts=texts, types=types, bos_token_id=bos, end_token_ids=_end_token_ids(metadata, texts, types))


def _mistyped(metadata: Mapping[str, Any], texts: list[str], types: list[int]) -> list[int]:
    """Return the tokens named like control tokens that the file marks as something else, except those that merges produce."""
    names = END_TOKENS | FILL_TOKENS
    found = [index for index, text in enumerate(texts) if text in names and types[index] != CONTROL]
    if not found:
        return []
    merged = {merge.replace(" ", "") for merge in items(metadata, f"{PREFIX}merges", str)}
    return [index for index in found if texts[index] not in merged]


def _end_token_ids(metadata: Mapping[str, Any], texts: list[str], types: list[int]) -> tuple[int, ...]:
    named = [_named_id(metadata, key) for key in END_TOKEN_KEYS]
    named += [each for each in items(metadata, f"{PREFIX}eos_token_ids", int) if not isinstance(each, bool)]
    if named[0] is None and metadata.get(f"{PREFIX}model") == "llama" and _is_control(SENTENCEPIECE_EOS, types):
        named.append(SENTENCEPIECE_EOS)
    fills: frozenset[str] = frozenset()
    for key, names in FILL_ENDS.items():
        if (token_id := _named_id(metadata, key)) is None:
            fills |= names
        else:
            named.append(token_id)
    names = END_TOKENS | AMBIGUOUS_END_TOKENS | fills
    by_name = [index for index, text in enumerate(texts) if types[index] == CONTROL and text in names]
    ids = dict.fromkeys([each for each in named if each is not None] + by_name)
    return tuple(without_message_ends({each: texts[each] if 0 <= each < len(texts) else "" for each in ids}))


def _named_id(metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(f"{PREFIX}{key}")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_control(token_id: int, types: list[int]) -> bool:
    return token_id < len(types) and types[token_id] == CONTROL
