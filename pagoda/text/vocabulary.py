"""The vocabulary of a model, in the same form for all file formats. The tokenizer is built from it.

gguf_vocabulary.py and hf_vocabulary.py read the files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Self

import tokenizers
from tokenizers import AddedToken, pre_tokenizers
from tokenizers.models import Model

BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class Encoders:
    """The encoders of a vocabulary. They add no tokens to a text, and share one model if that is safe."""

    parsing: tokenizers.Tokenizer
    """Encoder for which the name of a control token is that token."""
    literal: tokenizers.Tokenizer
    """Encoder for which the name of a control token is plain text. Other added tokens are found."""
    literal_inner: tokenizers.Tokenizer
    """Encoder like `literal` for text inside a prompt: without the space that some vocabularies put at the beginning."""
    normalized_names: bool
    """True if, after normalization, a text that is not a control token's name may be that token."""

    @classmethod
    def build(cls, parsing: tokenizers.Tokenizer, added: Sequence[AddedToken], literal_model: Model) -> Self:
        """Build all encoders from `parsing`.

        `added` are all added tokens in the order in which `parsing` got them, because their ids depend on it. `literal_model` has
        the same ids as the model of `parsing`, but cannot produce a control token.
        """
        literal, inner = tokenizers.Tokenizer(literal_model), tokenizers.Tokenizer(literal_model)
        for encoder in (literal, inner):
            if parsing.normalizer is not None:
                encoder.normalizer = parsing.normalizer
            if parsing.pre_tokenizer is not None:
                encoder.pre_tokenizer = parsing.pre_tokenizer
            add_tokens(
                encoder, [_nameless(token, index) for index, token in enumerate(added) if _has_place(token, encoder)]
            )
            encoder.encode_special_tokens = True
        if inner.pre_tokenizer is not None:
            inner.pre_tokenizer = _without_first_prefix(inner.pre_tokenizer)
        normalized = any(token.special and token.normalized for token in added)
        return cls(parsing, literal, inner, normalized and parsing.normalizer is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The vocabulary of a model."""

    encoders: Encoders
    token_bytes: Sequence[bytes]
    """Bytes of each token, by id. Empty for special tokens."""
    special_tokens: Mapping[str, int]
    """Ids of the control tokens by name. Chat templates contain the names; a name that a user types in a message is text."""
    bos_token_id: int | None
    add_bos: bool
    """True if the model expects the beginning-of-sequence token at the start of each prompt."""
    closing_token_ids: tuple[int, ...] = ()
    """Tokens at the end of each whole text, as in vocabularies of embedding models: a separator or an end token."""


def placeholder(index: int) -> str:
    """Return a name that no text contains, for the control token that was added as number `index`."""
    return f"\U0010fffe{index}\U0010fffe"


def add_tokens(encoder: tokenizers.Tokenizer, added: Sequence[AddedToken]) -> None:
    """Add the tokens in this order, because the library gives a token that its model lacks the next free id."""
    for special, run in groupby(added, key=lambda token: token.special):
        (encoder.add_special_tokens if special else encoder.add_tokens)(list(run))


def can_be_made(name: str, pre_tokenizer: pre_tokenizers.PreTokenizer | None, *, whole_words_first: bool) -> bool:
    """Return True if byte-pair encoding can produce the token `name` from text although no merge produces it."""
    if len(name) == 1:
        return True
    if not whole_words_first:
        return False
    return pre_tokenizer is None or [piece for piece, _ in pre_tokenizer.pre_tokenize_str(name)] == [name]


def piece_bytes(piece: str) -> bytes:
    """Return the bytes of a SentencePiece entry: "▁" is a space, "<0x0A>" a byte."""
    if byte := BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(byte[1])
    return piece.replace("▁", " ").encode()


def _has_place(token: AddedToken, encoder: tokenizers.Tokenizer) -> bool:
    """Return True if the token must be added. A control token that the model has need not be, because it is never searched."""
    return not token.special or encoder.token_to_id(token.content) is None


def _nameless(token: AddedToken, index: int) -> AddedToken:
    """Return a control token with a name that no text contains. It is still added, so that later tokens keep their ids."""
    return AddedToken(placeholder(index), special=True, normalized=False) if token.special else token


def _without_first_prefix(pre_tokenizer: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Return the pre-tokenizer with Metaspace's scheme "first", which prepends a space to a text, replaced by "never"."""
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        steps = list(pre_tokenizer)  # type: ignore[call-overload]  # the stubs lack its iterator
        return pre_tokenizers.Sequence([_without_first_prefix(step) for step in steps])
    if isinstance(pre_tokenizer, pre_tokenizers.Metaspace) and pre_tokenizer.prepend_scheme == "first":
        return pre_tokenizers.Metaspace(
            replacement=pre_tokenizer.replacement, prepend_scheme="never", split=pre_tokenizer.split
        )
    return pre_tokenizer
