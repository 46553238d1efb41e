"""Tests of Gemma 3's score-based vocabulary of 262144 tokens against llama.cpp.

llama_cpp_gemma3_ids.json has llama.cpp's token ids of each text, after the beginning-of-sequence token and without parsing control
tokens.
"""

import json
from pathlib import Path

import pytest

from pagoda.cli.fetch import fetch_model
from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from pagoda.text.tokenizer import Tokenizer

pytestmark = pytest.mark.large

LLAMA_CPP_IDS = json.loads(Path(__file__).with_name("llama_cpp_gemma3_ids.json").read_text())


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    fetch_model(home, "gemma3:270m")
    return ModelStore(home).get("gemma3:270m")


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Tokenizer:
    return Tokenizer.load(model)


def test_token_ids_agree_with_llama_cpp(tokenizer: Tokenizer) -> None:
    for text, ids in LLAMA_CPP_IDS.items():
        assert tokenizer.encode(text, parse_control_tokens=False) == ids, text


def test_text_survives_the_way_back(tokenizer: Tokenizer) -> None:
    for text in LLAMA_CPP_IDS:
        if "▁" not in text:  # the character that stands for a space
            assert tokenizer.decode(tokenizer.encode(text, parse_control_tokens=False)) == text


def test_all_ends_of_a_generation_are_known(model: Model, tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_text(token_id) for token_id in model.eos_token_ids] == ["<eos>", "<end_of_turn>"]
