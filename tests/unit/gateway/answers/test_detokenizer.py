"""Tests of incremental detokenizing: the joined pieces equal the whole text, and no character is broken."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.answers.detokenizer import Detokenizer
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.tiny_model import END_OF_TEXT, IM_END

# Ids of the tiny model: any bytes, mixed with special tokens.
ANY_IDS = st.lists(st.lists(st.integers(0, IM_END), max_size=6), max_size=12)


@given(chunks=ANY_IDS)
def test_pieces_joined_are_the_whole(tiny_tokenizer: Tokenizer, chunks: list[list[int]]) -> None:
    detokenizer = Detokenizer(tiny_tokenizer)
    pieces = [detokenizer.decode_next(chunk) for chunk in chunks]
    whole = tiny_tokenizer.decode([token_id for chunk in chunks for token_id in chunk])
    assert "".join(pieces) + detokenizer.decode_rest() == whole


@given(text=st.text())
def test_one_token_at_a_time_gives_whole_characters(tiny_tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(tiny_tokenizer)
    ids = tiny_tokenizer.encode(text, parse_control_tokens=False)
    pieces = [detokenizer.decode_next([token_id]) for token_id in ids]
    assert [piece for piece in pieces if piece] == list(text)
    assert detokenizer.decode_rest() == ""


def test_an_unfinished_character_is_held_back_until_the_end(tiny_tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tiny_tokenizer)
    assert detokenizer.decode_next(list("né".encode()[:-1])) == "n"
    assert detokenizer.decode_rest() == "\N{REPLACEMENT CHARACTER}"


def test_invalid_bytes_are_replaced_once_certain(tiny_tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tiny_tokenizer)
    assert detokenizer.decode_next([0xE2, 0x82]) == ""  # two thirds of a euro sign
    assert detokenizer.decode_next([ord("a")]) == "\N{REPLACEMENT CHARACTER}a"


def test_special_tokens_have_no_text(tiny_tokenizer: Tokenizer) -> None:
    assert Detokenizer(tiny_tokenizer).decode_next([IM_END, ord("a"), END_OF_TEXT]) == "a"
