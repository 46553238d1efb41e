"""Builds the vocabularies of GGUF files that only embedding models have: WordPiece ("bert") and Unigram ("t5").

Both end a whole text with a token of their own, the separator or the end.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.config_values import items
from pagoda.models.formats.gguf_tokens import CONTROL, UNKNOWN, GGUFTokens
from pagoda.text.gguf_special import added_tokens, special_tokens, token_bytes
from pagoda.text.vocabulary import Encoders, Vocabulary, add_tokens, piece_bytes, placeholder

PREFIX = "tokenizer.ggml."
WORD_START, CONTINUATION = "\u2581", "##"
BERT_BOS, BERT_UNKNOWN, BERT_SEPARATOR = 101, 100, 102
T5_END, T5_UNKNOWN = 1, 2
"""Ids of these tokens if the file does not name them, as in llama.cpp."""


def separator_id(metadata: Mapping[str, Any], tokens: GGUFTokens) -> int | None:
    """Return the id of the separator, or of the end token, which has its place in RoBERTa's vocabularies."""
    for key in ("seperator_token_id", "eos_token_id"):  # the first is spelled so in the files
        token_id = metadata.get(PREFIX + key)
        if isinstance(token_id, int) and token_id in range(len(tokens.texts)):
            return token_id
    return None


def read_wordpiece(metadata: Mapping[str, Any], tokens: GGUFTokens) -> Vocabulary:
    """Return the vocabulary of the kind "bert". Raises ModelFormatError.

    The files mark the first piece of a word with "\u2581", and BERT's own vocabularies the others with "##".
    """
    texts = [
        text if kind in (CONTROL, UNKNOWN) else _bert_spelling(text)
        for text, kind in zip(tokens.texts, tokens.types, strict=True)
    ]
    unknown = texts[_id_of(metadata, "unknown_token_id", BERT_UNKNOWN, texts)]
    lowercase = metadata.get(f"{PREFIX}normalizer.lowercase", True) is not False
    strip_accents = metadata.get(f"{PREFIX}normalizer.strip_accents", lowercase) is not False
    vocabulary = {text: token_id for token_id, text in enumerate(texts)}
    parsing = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=100))
    parsing.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    parsing.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    added = added_tokens(metadata, tokens)
    add_tokens(parsing, added)
    # Punctuation is split off, so that a text cannot become the name of a control token: "[CLS]" is three pieces.
    return Vocabulary(
        encoders=Encoders.build(parsing, added, parsing.model),
        token_bytes=token_bytes(tokens, piece_bytes),
        special_tokens=special_tokens(tokens),
        bos_token_id=_id_of(metadata, "bos_token_id", BERT_BOS, texts, "cls_token_id"),
        add_bos=metadata.get(f"{PREFIX}add_bos_token", True) is not False,
        closing_token_ids=(_id_of(metadata, "seperator_token_id", BERT_SEPARATOR, texts),),
    )


def read_unigram(metadata: Mapping[str, Any], tokens: GGUFTokens) -> Vocabulary:
    """Return the vocabulary of the kind "t5". Raises ModelFormatError."""
    scores = items(metadata, f"{PREFIX}scores", float)
    if len(scores) != len(tokens.texts):
        raise ModelFormatError(f"the vocabulary has {len(tokens.texts)} tokens and {len(scores)} scores")
    unknown = _id_of(metadata, "unknown_token_id", T5_UNKNOWN, tokens.texts)
    added = added_tokens(metadata, tokens)
    names = {token.content: placeholder(index) for index, token in enumerate(added) if token.special}
    parsing = _unigram(tokens.texts, scores, unknown)
    steps = [*_precompiled(metadata), *sentencepiece_normalizers(metadata)]
    parsing.normalizer = normalizers.Sequence(steps)
    add_tokens(parsing, added)
    literal = _unigram([names.get(text, text) for text in tokens.texts], scores, unknown)
    ends = metadata.get(f"{PREFIX}add_eos_token", True) is not False
    return Vocabulary(
        encoders=Encoders.build(parsing, added, literal.model),
        token_bytes=token_bytes(tokens, piece_bytes),
        special_tokens=special_tokens(tokens),
        bos_token_id=tokens.bos_token_id,
        add_bos=tokens.bos_token_id is not None and bool(metadata.get(f"{PREFIX}add_bos_token", False)),
        closing_token_ids=(_id_of(metadata, "eos_token_id", T5_END, tokens.texts),) if ends else (),
    )


def sentencepiece_normalizers(metadata: Mapping[str, Any]) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if metadata.get(f"{PREFIX}remove_extra_whitespaces", False):
        # In this order each space is visited once. A pattern " +\z" would be tried from each space of a run.
        steps += [normalizers.Replace(Regex(" +"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
    if metadata.get(f"{PREFIX}add_space_prefix", True):
        steps.append(normalizers.Prepend(WORD_START))
    return [*steps, normalizers.Replace(" ", WORD_START)]


def _bert_spelling(text: str) -> str:
    return text.removeprefix(WORD_START) if text.startswith(WORD_START) else CONTINUATION + text


def _unigram(texts: Sequence[str], scores: Sequence[float], unknown: int) -> Tokenizer:
    try:
        return Tokenizer(models.Unigram(list(zip(texts, scores, strict=True)), unk_id=unknown, byte_fallback=False))
    except Exception as error:  # the library raises plain Exception
        raise ModelFormatError(f"the vocabulary is damaged: {error}") from None


def _precompiled(metadata: Mapping[str, Any]) -> list[normalizers.Normalizer]:
    """Return the normalization that SentencePiece's trainer compiled into the vocabulary."""
    table = items(metadata, f"{PREFIX}precompiled_charsmap", int)
    if not table:
        return []
    try:
        return [normalizers.Precompiled(bytes(each & 255 for each in table))]
    except Exception as error:  # the library raises plain Exception
        raise ModelFormatError(f"the vocabulary's table of characters is damaged: {error}") from None


def _id_of(metadata: Mapping[str, Any], key: str, default: int, texts: Sequence[str], *others: str) -> int:
    token_id = next((metadata[PREFIX + each] for each in (key, *others) if PREFIX + each in metadata), default)
    if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id not in range(len(texts)):
        raise ModelFormatError(f"{PREFIX}{key} must be the id of a token (got {token_id!r})")
    return token_id
