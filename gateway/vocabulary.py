"""What a model's files say about its tokens, in one shape for each format: the tokenizer is built from it.

Knows nothing about files (gguf_vocabulary.py and hf_vocabulary.py read those).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tokenizers

BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    encoder: tokenizers.Tokenizer
    """Text to ids, adding nothing and knowing no special token: whatever a user types is text."""
    token_bytes: Sequence[bytes]
    """By id: the bytes each token stands for; empty for special tokens."""
    special_tokens: Mapping[str, int]
    """The control tokens: spelled like text in chat templates, never found in a user's text."""
    bos_token_id: int | None
    add_bos: bool
    """Whether the model expects the beginning-of-sequence token in front of each prompt."""


def piece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece entry: "▁" is a space, "<0x0A>" a byte."""
    if byte := BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(byte[1])
    return piece.replace("▁", " ").encode()
