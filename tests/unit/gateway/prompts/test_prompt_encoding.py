"""Tests of refused texts: the error names the field that contained the text."""

import pytest

from gateway.errors import InvalidRequestError, PromptTooLongError
from gateway.prompts import prompt_encoding
from gateway.prompts.prompt_encoding import encode_texts
from pagoda.text.prompt_bound import PromptBound
from pagoda.text.tokenizer import Tokenizer


async def test_a_text_that_is_too_long(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(PromptTooLongError) as refused:
        await encode_texts(
            tiny_tokenizer, ["ok", "one " * 100_000], PromptBound(max_tokens=8), field="input", add_special_tokens=False
        )
    assert refused.value.param == "input"


async def test_texts_that_are_too_long_together(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_encoding, "MAX_PROMPT_TOKENS", 8)
    with pytest.raises(InvalidRequestError, match=r"in `input` may have at most 8 tokens") as refused:
        await encode_texts(
            tiny_tokenizer, ["one two three"] * 8, PromptBound(max_tokens=8), field="input", add_special_tokens=False
        )
    assert refused.value.param == "input"
