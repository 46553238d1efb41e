"""Tests of the vocabulary for llguidance: a text becomes tokens with exactly its bytes, whatever the model's encoder does."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from pagoda.text import gguf_vocabulary
from pagoda.text.grammar_tokens import grammar_tokenizer, parser_limits
from pagoda.text.tokenizer import Tokenizer
from tests.unit.pagoda.text.test_sentencepiece import train, write_gguf

TEXTS = ("", "temperature", '{"temperature":', " a", "  x  y", "\n\n", "é塔", "e\u0301", "\x02a", "\x02")


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Return a tokenizer that puts a space before each text."""
    folder: Path = tmp_path_factory.mktemp("sentencepiece")
    vocabulary = gguf_vocabulary.read_vocabulary(write_gguf(folder / "v.gguf", train(folder / "m.model"), []))
    return Tokenizer(vocabulary, vocab_size=len(vocabulary.token_bytes), eos_token_ids=(2,))


@pytest.fixture(scope="module")
def vocabulary(sentencepiece: Tokenizer) -> LLTokenizer:
    return grammar_tokenizer(sentencepiece)


def spelled(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_becomes_tokens_with_its_bytes(sentencepiece: Tokenizer, vocabulary: LLTokenizer, text: str) -> None:
    assert spelled(sentencepiece, vocabulary.tokenize_str(text)) == text.encode()
    assert spelled(sentencepiece, sentencepiece.encode("a", add_special_tokens=False)) == b" a"


def forced(matcher: LLMatcher, tokenizer: Tokenizer) -> Iterator[int]:
    """Consume and yield tokens while the mask has a single one."""
    words_W = np.zeros(-(-tokenizer.vocab_size // 32), np.int32)
    while True:
        matcher.unsafe_compute_mask_ptr(words_W.ctypes.data, words_W.nbytes)
        allowed = np.flatnonzero(np.unpackbits(words_W.view(np.uint8), bitorder="little")).tolist()
        if len(allowed) != 1:
            return
        matcher.consume_token(allowed[0])
        yield allowed[0]


def test_a_forced_text_can_be_written(sentencepiece: Tokenizer, vocabulary: LLTokenizer) -> None:
    matcher = LLMatcher(vocabulary, r'start: "{\"temperature\":" /[12]/', log_level=0, limits=parser_limits())
    assert spelled(sentencepiece, list(forced(matcher, sentencepiece))) == b'{"temperature":'
    assert not matcher.is_error()


def test_one_leading_space_may_be_in_the_first_token(sentencepiece: Tokenizer, vocabulary: LLTokenizer) -> None:
    """A SentencePiece model begins an answer with a token that has a space."""
    matcher = LLMatcher(vocabulary, r'start: / ?/ "te" /[12]/', log_level=0, limits=parser_limits())
    first = sentencepiece.encode("te1", add_special_tokens=False)
    assert sentencepiece.token_bytes(first[0]).startswith(b" ")
    assert matcher.consume_tokens(first)
