"""What a model's files say about its tokens, in one shape for each format: the tokenizer is built from it.

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
    """A vocabulary's encoders. All add nothing of their own, and they share one model where that is safe."""

    parsing: tokenizers.Tokenizer
    """Text to ids as the library does it: the name of a control token is that token."""
    literal: tokenizers.Tokenizer
    """The name of a control token is the text that it consists of; other added tokens are found."""
    literal_inner: tokenizers.Tokenizer
    """As `literal`, for text that does not begin its prompt: without the space that some vocabularies put there."""
    normalized_names: bool
    """Whether a text that is not a control token's name can be one once it is normalized."""

    @classmethod
    def build(cls, parsing: tokenizers.Tokenizer, added: Sequence[AddedToken], literal_model: Model) -> Self:
        """`added` are all added tokens in the order in which `parsing` got them, whose ids depend on it.

        No text may become a control token in `literal_model`, which has the same ids as the model of `parsing`.
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
    encoders: Encoders
    token_bytes: Sequence[bytes]
    """By id: the bytes each token stands for; empty for special tokens."""
    special_tokens: Mapping[str, int]
    """The control tokens by their names: spelled like text in chat templates, and text where a user types them in a message."""
    bos_token_id: int | None
    add_bos: bool
    """Whether the model expects the beginning-of-sequence token in front of each prompt."""


def placeholder(index: int) -> str:
    """The name of the control token that was added as number `index` where no text may have its name."""
    return f"\U0010fffe{index}\U0010fffe"


def add_tokens(encoder: tokenizers.Tokenizer, added: Sequence[AddedToken]) -> None:
    """Add in this order: the library gives a token that its model lacks the next free id."""
    for special, run in groupby(added, key=lambda token: token.special):
        (encoder.add_special_tokens if special else encoder.add_tokens)(list(run))


def can_be_made(name: str, pre_tokenizer: pre_tokenizers.PreTokenizer | None, *, whole_words_first: bool) -> bool:
    """Whether byte-pair encoding can make the token `name`, which no merge makes, out of text."""
    if len(name) == 1:
        return True
    if not whole_words_first:
        return False
    return pre_tokenizer is None or [piece for piece, _ in pre_tokenizer.pre_tokenize_str(name)] == [name]


def piece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece entry: "▁" is a space, "<0x0A>" a byte."""
    if byte := BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(byte[1])
    return piece.replace("▁", " ").encode()


def _has_place(token: AddedToken, encoder: tokenizers.Tokenizer) -> bool:
    """A control token that the model has needs no adding: it is never looked for."""
    return not token.special or encoder.token_to_id(token.content) is None


def _nameless(token: AddedToken, index: int) -> AddedToken:
    """A control token keeps its id, so that those behind it do, and gets a name that no text has."""
    return AddedToken(placeholder(index), special=True, normalized=False) if token.special else token


def _without_first_prefix(pre_tokenizer: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """Metaspace with the scheme "first" looks at where a text begins; this one never does."""
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        steps = list(pre_tokenizer)  # type: ignore[call-overload]  # its stubs do not say that it can be iterated
        return pre_tokenizers.Sequence([_without_first_prefix(step) for step in steps])
    if isinstance(pre_tokenizer, pre_tokenizers.Metaspace) and pre_tokenizer.prepend_scheme == "first":
        return pre_tokenizers.Metaspace(
            replacement=pre_tokenizer.replacement, prepend_scheme="never", split=pre_tokenizer.split
        )
    return pre_tokenizer
