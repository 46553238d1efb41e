"""The tokens of a GGUF vocabulary that are not produced by merging: control tokens, and others that are found in a text first."""

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken

from pagoda.models.formats.gguf_tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, GGUFTokens

STRIPPING_MODELS = ("phi-3", "phi3")
"""Parts of the names of models whose added tokens absorb the spaces and line ends after them."""
NOT_STRIPPING = ("<unk>", "<s>", "<|endoftext|>")


def special_tokens(tokens: GGUFTokens) -> dict[str, int]:
    """Return the ids of control tokens, by name."""
    return {text: index for index, text in enumerate(tokens.texts) if tokens.types[index] in (CONTROL, UNKNOWN)}


def ordinary_tokens(tokens: GGUFTokens) -> dict[str, int]:
    """Return the tokens that a text may become. Control tokens are excluded, so that a user's text cannot produce one."""
    return {
        text: token_id
        for token_id, (text, token_type) in enumerate(zip(tokens.texts, tokens.types, strict=True))
        if token_type in (NORMAL, USER_DEFINED, BYTE)
    }


def added_tokens(metadata: Mapping[str, Any], tokens: GGUFTokens) -> list[AddedToken]:
    """Return the tokens that are found in a text before it is split and merged.

    The files do not say which of them strip spaces. As in llama.cpp, this depends on the model's name.
    """
    name = str(metadata.get("general.name", "")).lower()
    strips = any(part in name for part in STRIPPING_MODELS)
    return [
        AddedToken(text, normalized=False, special=kind != USER_DEFINED, rstrip=strips and text not in NOT_STRIPPING)
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]


def token_bytes(tokens: GGUFTokens, spell: Callable[[str], bytes]) -> list[bytes]:
    """Return the bytes of each token. `spell` is that of tokens in the vocabulary's alphabet."""
    return [_bytes_of(text, kind, spell) for text, kind in zip(tokens.texts, tokens.types, strict=True)]


def _bytes_of(text: str, token_type: int, spell: Callable[[str], bytes]) -> bytes:
    if token_type == USER_DEFINED:
        return text.encode()  # stored as written, not in the vocabulary's alphabet
    return spell(text) if token_type in (NORMAL, BYTE) else b""
