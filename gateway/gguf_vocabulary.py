"""Builds the vocabulary from a GGUF file's `tokenizer.ggml.*` metadata.

Two kinds: byte-level BPE ("gpt2"), whose `pre` key names the way text is split before merging, and SentencePiece ("llama"),
which merges by score. As in llama.cpp and transformers, a byte that neither a byte-level vocabulary nor its merges have is
dropped (SmolLM2's lacks 21: six control characters, and bytes that occur in no UTF-8 or in no assigned plane). Knows
nothing about weights.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from gateway.byte_alphabet import spelled_bytes
from gateway.pre_tokenizers import PRE_TOKENIZERS
from gateway.vocabulary import Vocabulary, piece_bytes
from pagoda.models.config_values import items
from pagoda.models.errors import ModelFormatError
from pagoda.models.gguf_file import GGUFFile

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""llama.cpp's token types."""

MAX_PIECE_CHARACTERS = 512
"""Four times the longest known: each place where a piece can be cut is looked at."""


def read_vocabulary(path: Path) -> Vocabulary:
    with GGUFFile(path) as file:
        metadata = file.metadata
    kind = metadata.get("tokenizer.ggml.model")
    tokens = items(metadata, "tokenizer.ggml.tokens", str)
    types = items(metadata, "tokenizer.ggml.token_type", int) or [NORMAL] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise ModelFormatError(f"{path}: the vocabulary has {len(tokens)} tokens and {len(types)} token types")
    bos_token_id = metadata.get("tokenizer.ggml.bos_token_id")
    if bos_token_id is not None and bos_token_id not in range(len(tokens)):
        raise ModelFormatError(f"{path}: the beginning-of-sequence token {bos_token_id!r} is outside the vocabulary")
    if kind == "gpt2":
        return _byte_level(path, metadata, tokens, types)
    if kind == "llama":
        return _sentencepiece(path, metadata, tokens, types)
    raise ModelFormatError(f"{path}: the tokenizer {kind!r} is not supported (known: gpt2, llama)")


def _byte_level(path: Path, metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in PRE_TOKENIZERS:
        raise ModelFormatError(
            f"{path}: the pre-tokenizer {pre!r} is not supported (known: {', '.join(sorted(PRE_TOKENIZERS))})"
        )
    pre_tokenizer = PRE_TOKENIZERS[pre]
    merges = [_pair(path, merge) for merge in items(metadata, "tokenizer.ggml.merges", str)]
    vocabulary = _mergeable(tokens, types)
    if not merges and any(len(token) > 1 and types[token_id] == NORMAL for token, token_id in vocabulary.items()):
        raise ModelFormatError(f"{path}: the vocabulary has tokens of several bytes, but no merges to make them")
    encoder = _encoder(path, vocabulary, merges, ignore_merges=pre_tokenizer.whole_words_first)
    encoder.pre_tokenizer = pre_tokenizer.build()
    encoder.decoder = decoders.ByteLevel()
    if pre_tokenizer.composed:
        encoder.normalizer = normalizers.NFC()
    return _vocabulary(metadata, encoder, tokens, types, spelled_bytes, add_bos=pre_tokenizer.add_bos)


def _sentencepiece(path: Path, metadata: Mapping[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    scores = items(metadata, "tokenizer.ggml.scores", float)
    if len(scores) != len(tokens):
        raise ModelFormatError(f"{path}: the vocabulary has {len(tokens)} tokens and {len(scores)} scores")
    vocabulary = _mergeable(tokens, types)
    if any(len(token) > MAX_PIECE_CHARACTERS for token in vocabulary):
        raise ModelFormatError(f"{path}: the vocabulary has a token of more than {MAX_PIECE_CHARACTERS} characters")
    encoder = _encoder(path, vocabulary, merges_from_scores(vocabulary, scores), byte_fallback=True)
    encoder.normalizer = normalizers.Sequence(_sentencepiece_normalizers(metadata))
    return _vocabulary(metadata, encoder, tokens, types, piece_bytes, add_bos=True)


def _sentencepiece_normalizers(metadata: Mapping[str, Any]) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if metadata.get("tokenizer.ggml.remove_extra_whitespaces", False):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" +"), " ")]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.append(normalizers.Prepend("▁"))
    return [*steps, normalizers.Replace(" ", "▁")]


def merges_from_scores(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose union scores best: all pairs that make a token, best token first."""
    best_first = sorted(vocabulary, key=lambda token: (-scores[vocabulary[token]], vocabulary[token]))
    return [pair for token in best_first for pair in _pairs(token, vocabulary)]


def _pairs(token: str, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs = [
        (left, right)
        for cut in range(1, len(token))
        if (left := token[:cut]) in vocabulary and (right := token[cut:]) in vocabulary
    ]
    return sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]])) if len(pairs) > 1 else pairs


def _mergeable(tokens: list[str], types: list[int]) -> dict[str, int]:
    """What merging may produce: no control token, so none can come out of a user's text."""
    return {
        token: token_id
        for token_id, (token, token_type) in enumerate(zip(tokens, types, strict=True))
        if token_type in (NORMAL, USER_DEFINED, BYTE)
    }


def _pair(path: Path, merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not left or not right:
        raise ModelFormatError(f"{path}: the vocabulary has the merge {merge!r}, which is not two tokens")
    return left, right


def _encoder(path: Path, vocabulary: dict[str, int], merges: list[tuple[str, str]], **options: bool) -> Tokenizer:
    try:
        return Tokenizer(models.BPE(vocabulary, merges, **options))
    except Exception as error:  # the library raises no narrower class
        raise ModelFormatError(f"{path}: the vocabulary is damaged: {error}") from None


def _vocabulary(
    metadata: Mapping[str, Any],
    encoder: Tokenizer,
    tokens: list[str],
    types: list[int],
    spell: Callable[[str], bytes],
    *,
    add_bos: bool,
) -> Vocabulary:
    user_defined = [token for token, token_type in zip(tokens, types, strict=True) if token_type == USER_DEFINED]
    encoder.add_tokens([AddedToken(token, normalized=False) for token in user_defined])
    special = {token: index for index, token in enumerate(tokens) if types[index] in (CONTROL, UNKNOWN)}
    bos_token_id = metadata.get("tokenizer.ggml.bos_token_id")
    return Vocabulary(
        encoder=encoder,
        token_bytes=[_token_bytes(token, kind, spell) for token, kind in zip(tokens, types, strict=True)],
        special_tokens=special,
        bos_token_id=bos_token_id,
        add_bos=bos_token_id is not None and bool(metadata.get("tokenizer.ggml.add_bos_token", add_bos)),
    )


def _token_bytes(token: str, token_type: int, spell: Callable[[str], bytes]) -> bytes:
    if token_type == USER_DEFINED:
        return token.encode()  # kept as written, outside the vocabulary's own spelling
    return spell(token) if token_type in (NORMAL, BYTE) else b""
