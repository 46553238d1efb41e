"""Builds the vocabulary from a GGUF file's `tokenizer.ggml.*` metadata.

Here are byte-level BPE ("gpt2"), whose `pre` key names the way text is split before merging, BPE of characters ("gemma4"), and
SentencePiece that merges by score ("llama"). gguf_embedding_vocabulary.py reads the other kinds.

As in llama.cpp and transformers, a byte that is neither in a byte-level vocabulary nor in its merges is dropped (SmolLM2's lacks
21: six control characters, and bytes that occur in no UTF-8 or in no assigned plane).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.config_values import items
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.formats.gguf_tokens import NORMAL, USER_DEFINED, GGUFTokens, read_tokens, token_metadata
from pagoda.text.byte_alphabet import spelled_bytes
from pagoda.text.gguf_embedding_vocabulary import (
    read_unigram,
    read_wordpiece,
    sentencepiece_normalizers,
    separator_id,
)
from pagoda.text.gguf_special import added_tokens, ordinary_tokens, special_tokens, token_bytes
from pagoda.text.pre_tokenizers import PRE_TOKENIZERS
from pagoda.text.vocabulary import Encoders, Vocabulary, add_tokens, can_be_made, piece_bytes

MAX_PIECE_CHARACTERS = 512
"""Limit of a token's length, because the work grows with it. Four times the longest known."""


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a GGUF file. Raises ModelFormatError, whose message names the file."""
    with GGUFFile(path) as file:
        metadata = token_metadata(file)
    try:
        return _read(metadata)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from None


def _read(metadata: Mapping[str, Any]) -> Vocabulary:
    kind, tokens = metadata.get("tokenizer.ggml.model"), read_tokens(metadata)
    if not tokens.texts:
        raise ModelFormatError("the file has no vocabulary")
    if tokens.bos_token_id is not None and tokens.bos_token_id not in range(len(tokens.texts)):
        raise ModelFormatError(f"the beginning-of-sequence token {tokens.bos_token_id!r} is outside the vocabulary")
    if not isinstance(kind, str) or kind not in _READERS:
        raise ModelFormatError(f"the tokenizer {kind!r} is not supported (known: {', '.join(_READERS)})")
    return _READERS[kind](metadata, tokens)


def _byte_level(metadata: Mapping[str, Any], tokens: GGUFTokens) -> Vocabulary:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise ModelFormatError(
            f"the pre-tokenizer {pre!r} is not supported (known: {', '.join(sorted(PRE_TOKENIZERS))})"
        )
    pre_tokenizer = PRE_TOKENIZERS[pre]
    if pre_tokenizer.is_raw:
        return _characters(metadata, tokens, pre)
    merges = [_pair(merge) for merge in items(metadata, "tokenizer.ggml.merges", str)]
    ordinary = ordinary_tokens(tokens)
    if not merges and any(len(text) > 1 and tokens.types[token_id] == NORMAL for text, token_id in ordinary.items()):
        raise ModelFormatError("the vocabulary has tokens of several bytes, but no merges that produce them")
    whole_words_first = pre_tokenizer.whole_words_first
    make = partial(_encoder, pre_tokenizer=pre_tokenizer.build(), ignore_merges=whole_words_first)
    if pre_tokenizer.composed:
        make = partial(make, normalizer=normalizers.NFC())
    vocabulary = _vocabulary(
        metadata, tokens, ordinary, merges, make, spelled_bytes, add_bos=pre_tokenizer.add_bos, whole=whole_words_first
    )
    separator = separator_id(metadata, tokens) if pre_tokenizer.add_sep else None
    return vocabulary if separator is None else replace(vocabulary, closing_token_ids=(separator,))


def _characters(metadata: Mapping[str, Any], tokens: GGUFTokens, pre: str = "gemma4") -> Vocabulary:
    """Return a vocabulary that merges characters, with "▁" for a space, by a list of merges."""
    merges = [_pair(merge) for merge in items(metadata, "tokenizer.ggml.merges", str)]
    if not merges:
        raise ModelFormatError("the vocabulary has no merges")
    # Line ends are merged among themselves only. If no merge produces a run of them that is a token, it is found as a whole.
    merged = {left + right for left, right in merges}
    types = [
        USER_DEFINED if kind == NORMAL and len(text) > 1 and not text.strip("\n") and text not in merged else kind
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
    ]
    tokens = replace(tokens, types=types)
    normalizer = normalizers.Replace(" ", "▁")
    pre_tokenizer = PRE_TOKENIZERS[pre]
    make = partial(_encoder, pre_tokenizer=pre_tokenizer.build(), normalizer=normalizer, byte_fallback=True)
    return _vocabulary(
        metadata, tokens, ordinary_tokens(tokens), merges, make, piece_bytes, add_bos=pre_tokenizer.add_bos, whole=False
    )


def _sentencepiece(metadata: Mapping[str, Any], tokens: GGUFTokens) -> Vocabulary:
    scores = items(metadata, "tokenizer.ggml.scores", float)
    if len(scores) != len(tokens.texts):
        raise ModelFormatError(f"the vocabulary has {len(tokens.texts)} tokens and {len(scores)} scores")
    ordinary = ordinary_tokens(tokens)
    if any(len(text) > MAX_PIECE_CHARACTERS for text in ordinary):
        raise ModelFormatError(f"the vocabulary has a token of more than {MAX_PIECE_CHARACTERS} characters")
    make = partial(_encoder, normalizer=normalizers.Sequence(sentencepiece_normalizers(metadata)), byte_fallback=True)
    return _vocabulary(
        metadata, tokens, ordinary, merges_from_scores(ordinary, scores), make, piece_bytes, add_bos=True, whole=False
    )


def merges_from_scores(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return merges that reproduce SentencePiece's: it joins the neighbours whose union has the best score.

    These are all pairs that make a token, for the best token first.
    """
    best_first = sorted(vocabulary, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
    return [pair for token in best_first for pair in _pairs(token, vocabulary)]


def _pairs(token: str, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = [
        (left, right)
        for cut in range(1, len(token))
        if (left := token[:cut]) in vocabulary and (right := token[cut:]) in vocabulary
    ]
    return sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]])) if len(pairs) > 1 else pairs


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right:
        raise ModelFormatError(f"the vocabulary has the merge {merge!r}, which is not two tokens")
    return left, right


def _encoder(
    vocabulary: dict[str, int],
    merges: list[tuple[str, str]],
    *,
    pre_tokenizer: pre_tokenizers.PreTokenizer | None = None,
    normalizer: normalizers.Normalizer | None = None,
    **options: bool,
) -> Tokenizer:
    try:
        encoder = Tokenizer(models.BPE(vocabulary, merges, **options))
    except Exception as error:  # the library raises plain Exception
        raise ModelFormatError(f"the vocabulary is damaged: {error}") from None
    if pre_tokenizer is not None:
        encoder.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        encoder.normalizer = normalizer
    return encoder


def _vocabulary(
    metadata: Mapping[str, Any],
    tokens: GGUFTokens,
    ordinary: dict[str, int],
    merges: list[tuple[str, str]],
    make: Callable[[dict[str, int], list[tuple[str, str]]], Tokenizer],
    spell: Callable[[str], bytes],
    *,
    add_bos: bool,
    whole: bool,
) -> Vocabulary:
    special = special_tokens(tokens)
    merges = [(left, right) for left, right in merges if left + right not in special]
    parsing = make({**special, **ordinary}, merges)
    exposed = any(can_be_made(text, parsing.pre_tokenizer, whole_words_first=whole) for text in special)
    added = added_tokens(metadata, tokens)
    add_tokens(parsing, added)
    return Vocabulary(
        encoders=Encoders.build(parsing, added, make(ordinary, merges).model if exposed else parsing.model),
        token_bytes=token_bytes(tokens, spell),
        special_tokens=special,
        bos_token_id=tokens.bos_token_id,
        add_bos=tokens.bos_token_id is not None and bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)),
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], GGUFTokens], Vocabulary]] = {
    "gpt2": _byte_level,
    "llama": _sentencepiece,
    "gemma4": _characters,
    "bert": read_wordpiece,
    "t5": read_unigram,
}
"""Readers by `tokenizer.ggml.model`."""
