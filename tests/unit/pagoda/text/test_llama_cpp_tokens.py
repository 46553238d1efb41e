"""Ids and end tokens of GGUF vocabularies equal llama.cpp's, as recorded by record_llama_cpp_tokens.py."""

import json
from pathlib import Path

import pytest

from pagoda.models.formats.gguf_tokens import read_tokens
from pagoda.text import gguf_vocabulary
from pagoda.text.tokenizer import Tokenizer
from tests.unit.pagoda.text.gguf_vocabularies import TEXTS, VOCABULARIES, write_vocabulary

RECORDED = json.loads(Path(__file__).with_name("llama_cpp_tokens.json").read_text())


def load(kind: str, directory: Path) -> Tokenizer:
    path = write_vocabulary(directory / "v.gguf", VOCABULARIES[kind]())
    return Tokenizer(gguf_vocabulary.read_vocabulary(path), vocab_size=10_000, eos_token_ids=())


def without_doubled(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Remove a doubled beginning-of-sequence token: llama.cpp adds one to a text that begins with it, and warns."""
    bos = tokenizer.bos_prefix()
    return ids[1:] if bos and ids[:2] == bos * 2 else ids


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_control_tokens_are_parsed(kind: str, tmp_path: Path) -> None:
    tokenizer = load(kind, tmp_path)
    for text, expected in zip(TEXTS, RECORDED[kind]["parsed"], strict=True):
        assert tokenizer.encode(text) == without_doubled(expected, tokenizer), text


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_control_tokens_are_text(kind: str, tmp_path: Path) -> None:
    tokenizer = load(kind, tmp_path)
    for text, expected in zip(TEXTS, RECORDED[kind]["literal"], strict=True):
        assert tokenizer.encode(text, parse_control_tokens=False) == expected, text


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_end_tokens(kind: str) -> None:
    assert sorted(read_tokens(VOCABULARIES[kind]()).end_token_ids) == RECORDED[kind]["ends"]
