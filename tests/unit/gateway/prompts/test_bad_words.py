"""Tests of the tokens of bad words, with a vocabulary whose words have a form with a space and one without."""

import pytest

from gateway.prompts.bad_words import bad_word_tokens
from pagoda.text.tokenizer import Tokenizer
from tests.unit.pagoda.text.test_tokenizer import byte_level

# `Ġ` is the space. " bad" is one token, but "bad" is two.
MERGES = ["b a", "Ġ ba", "Ġba d", "o n", "on e", "Ġ one"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return byte_level(tmp_path_factory.mktemp("vocabulary") / "v.gguf", MERGES, pre="gpt-2")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("one", [["one"], [" one"]]),
        ("  one", [["one"], [" one"]]),
        ("bad", [["ba", "d"], [" bad"]]),
        ("one bad", [["one", " bad"], [" one", " bad"]]),
        ("?", [["?"], [" ", "?"]]),
        ("\n", [["\n"]]),
    ],
)
def test_a_word_is_banned_with_and_without_a_space(tokenizer: Tokenizer, word: str, expected: list[list[str]]) -> None:
    spelled = [[tokenizer.token_text(token_id) for token_id in word] for word in bad_word_tokens(tokenizer, [word])]
    assert spelled == expected


def test_equal_sequences_come_once(tokenizer: Tokenizer) -> None:
    assert bad_word_tokens(tokenizer, ["one", " one", "one"]) == bad_word_tokens(tokenizer, ["one"])


def test_without_words_there_are_no_sequences(tiny_tokenizer: Tokenizer) -> None:
    assert bad_word_tokens(tiny_tokenizer, []) == ()


def test_a_control_token_may_be_banned(tiny_tokenizer: Tokenizer) -> None:
    name, token_id = next(iter(tiny_tokenizer.special_tokens.items()))
    assert (token_id,) in bad_word_tokens(tiny_tokenizer, [name])
