"""Tests of the default model's vocabulary and chat template against other implementations."""

from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from gateway.prompts.chat_template import ChatTemplate
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.formats.gguf_file import GGUFFile
from pagoda.models.model import Model
from pagoda.models.store import ModelStore
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.chats import encoded_chat, rendered_chat
from tests.unit.pagoda.text.independent_bpe import GPT2_PATTERN, HARD_TEXTS, IndependentBPE


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    return ModelStore(home).get(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Tokenizer:
    return Tokenizer.load(model)


def test_token_ids_agree_with_an_independent_implementation(model: Model, tokenizer: Tokenizer) -> None:
    with GGUFFile(model.path) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
        merges = file.metadata["tokenizer.ggml.merges"]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    independent = IndependentBPE(vocabulary, merges, GPT2_PATTERN, split_digits=True)
    for text in HARD_TEXTS:
        assert tokenizer.encode(text, parse_control_tokens=False) == independent.encode(text)


def test_special_tokens_typed_by_a_user_stay_text(model: Model, tokenizer: Tokenizer) -> None:
    names = "".join(tokenizer.special_tokens)
    assert tokenizer.encode(names) == list(tokenizer.special_tokens.values())
    template = ChatTemplate.load(model, tokenizer)
    ids = encoded_chat(template, [{"role": "user", "content": names}])
    plain = encoded_chat(template, [{"role": "user", "content": "a"}])
    special = set(tokenizer.special_tokens.values())
    assert [each for each in ids if each in special] == [each for each in plain if each in special]
    assert tokenizer.decode(ids).count(names) == 1


@pytest.mark.parametrize("with_system", [True, False])
def test_the_chat_template_renders_as_in_transformers(model: Model, tokenizer: Tokenizer, with_system: bool) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Größe?\n"},
        {"role": "assistant", "content": "塔"},
        {"role": "user", "content": "Why?"},
    ][0 if with_system else 1 :]
    template = ChatTemplate.load(model, tokenizer)
    expected, _ = render_jinja_template([messages], chat_template=template.source, add_generation_prompt=True)
    assert rendered_chat(template, messages) == expected[0]
    assert tokenizer.decode(encoded_chat(template, messages), skip_special_tokens=False) == expected[0]
