"""Tests of the prompt for a text between two others: no vocabulary adds a space to the end."""

from pathlib import Path

import pytest

from gateway.prompts.fill_prompt import encode_fill
from pagoda.models.formats.fill_tokens import FillTokens
from pagoda.text import gguf_vocabulary
from pagoda.text.prompt_bound import PromptBound
from pagoda.text.tokenizer import Tokenizer
from tests.unit.pagoda.text.gguf_vocabularies import VOCABULARIES, write_vocabulary

FILL = FillTokens(prefix_id=10_001, suffix_id=10_002, middle_id=10_003)
BOUND = PromptBound(max_tokens=100)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["smollm", "qwen2 with a beginning", "sentencepiece"])
@pytest.mark.parametrize("end", ["ab end", " ab", "\nab", ""])
async def test_both_texts_come_back(tmp_path: Path, name: str, end: str) -> None:
    vocabulary = gguf_vocabulary.read_vocabulary(write_vocabulary(tmp_path / "v.gguf", VOCABULARIES[name]()))
    tokenizer = Tokenizer(vocabulary, vocab_size=len(vocabulary.token_bytes), eos_token_ids=())
    begun = tokenizer.bos_prefix()
    ids = await encode_fill(tokenizer, FILL, "ab ", end, BOUND)
    assert ids[: len(begun) + 1] == [*begun, FILL.prefix_id] and ids[-1] == FILL.middle_id
    inside = ids[len(begun) + 1 : -1]
    at = inside.index(FILL.suffix_id)
    assert tokenizer.decode(inside[:at]).strip() == "ab"
    assert tokenizer.decode(inside[at + 1 :]) == end


@pytest.mark.asyncio
async def test_the_end_first(tmp_path: Path) -> None:
    vocabulary = gguf_vocabulary.read_vocabulary(write_vocabulary(tmp_path / "v.gguf", VOCABULARIES["smollm"]()))
    tokenizer = Tokenizer(vocabulary, vocab_size=len(vocabulary.token_bytes), eos_token_ids=())
    fill = FillTokens(prefix_id=1, suffix_id=2, middle_id=None)
    ids = await encode_fill(tokenizer, fill, [7, 8], "ab", BOUND)
    assert ids == [2, *tokenizer.encode("ab", add_special_tokens=False), 1, 7, 8]
