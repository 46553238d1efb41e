"""Limits of texts: a text that fits is never refused, and the kept tokens are those of the whole text."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.text.prompt_bound import PIECE_CHARACTERS, Keep, PromptBound, TextTooLongError, bounded_text
from pagoda.text.tokenizer import Tokenizer

# In the tiny model's vocabulary each byte is a token.
LONG = 3 * PIECE_CHARACTERS


@pytest.mark.parametrize("text", ["a" * LONG, "塔" * LONG, " \n" * LONG])
@pytest.mark.parametrize("max_tokens", [1, 512, 40_000])
def test_a_text_that_cannot_fit_is_refused(tiny_tokenizer: Tokenizer, text: str, max_tokens: int) -> None:
    with pytest.raises(TextTooLongError, match=f"more than {max_tokens} tokens"):
        tiny_tokenizer.encode(text, bound=PromptBound(max_tokens=max_tokens))


@given(num_tokens=st.integers(1, LONG))
def test_a_text_that_fits_is_never_refused(tiny_tokenizer: Tokenizer, num_tokens: int) -> None:
    bound = PromptBound(max_tokens=num_tokens)
    assert len(tiny_tokenizer.encode("a" * num_tokens, bound=bound)) == num_tokens


@given(max_tokens=st.integers(1, 1000), keep=st.sampled_from([Keep.FIRST, Keep.LAST]))
def test_what_is_kept_is_as_in_the_whole(tiny_tokenizer: Tokenizer, max_tokens: int, keep: Keep) -> None:
    text = "".join(chr(ord("a") + position % 23) for position in range(LONG))
    ids = tiny_tokenizer.encode(text, bound=PromptBound(max_tokens=max_tokens, keep=keep))
    assert len(ids) < LONG
    wanted = slice(None, max_tokens) if keep is Keep.FIRST else slice(-max_tokens, None)
    assert ids[wanted] == list(text.encode())[wanted]


@pytest.mark.parametrize(("keep", "num_pieces"), [(Keep.FIRST, 1), (Keep.LAST, 1), (Keep.ALL, 0)])
def test_a_long_text_is_not_looked_at_to_its_end(keep: Keep, num_pieces: int) -> None:
    counted: list[int] = []

    def count_tokens(text: str) -> int:
        counted.append(len(text))
        return len(text)

    bound = PromptBound(max_tokens=1000, keep=keep)
    with contextlib.suppress(TextTooLongError):
        bounded_text("a" * 100 * PIECE_CHARACTERS, bound, count_tokens, longest_token=1)
    assert counted == [PIECE_CHARACTERS] * num_pieces


@pytest.mark.parametrize(("keep", "expected"), [(Keep.FIRST, [0, 1]), (Keep.LAST, [3, 4])])
def test_ids_are_trimmed_to_twice_what_is_wanted(keep: Keep, expected: list[int]) -> None:
    bound = PromptBound(max_tokens=1, keep=keep)
    assert bound.trimmed([0, 1]) == [0, 1]
    assert bound.trimmed([0, 1, 2, 3, 4]) == expected
    with pytest.raises(TextTooLongError):
        PromptBound(max_tokens=1).trimmed([0, 1, 2])
