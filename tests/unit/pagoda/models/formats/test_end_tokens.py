"""All tokens that end a generation are found, from any file, key, name or type, and no others."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.end_tokens import END_TOKENS, inside_vocabulary, read_checkpoint_end_tokens
from pagoda.models.formats.gguf_tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, GGUFTokens, read_tokens

TEXTS = ["<unk>", "<s>", "</s>", "a", "b", "<|end|>", "<|im_end|>", "<|user|>"]
TYPES = [UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL, CONTROL, CONTROL, CONTROL]


def tokens_of(texts: list[str], types: list[int], **metadata: Any) -> GGUFTokens:
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return read_tokens({"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": types} | named)


def ends(texts: list[str], types: list[int], **metadata: Any) -> set[str]:
    found = tokens_of(texts, types, **metadata).end_token_ids
    return {texts[token_id] for token_id in found}


@pytest.mark.parametrize("token_type", [CONTROL, USER_DEFINED, NORMAL])
@pytest.mark.parametrize("name", sorted(END_TOKENS))
def test_a_name_ends_a_generation_whatever_its_type(name: str, token_type: int) -> None:
    tokens = tokens_of(["a", name], [NORMAL, token_type], model="gpt2")
    assert tokens.end_token_ids == (1,)
    assert tokens.types[1] == CONTROL


@pytest.mark.parametrize(("token_type", "is_end"), [(CONTROL, True), (USER_DEFINED, False), (NORMAL, False)])
def test_html_is_no_end(token_type: int, is_end: bool) -> None:
    tokens = tokens_of(["a", "</s>"], [NORMAL, token_type], model="gpt2")
    assert (tokens.end_token_ids == (1,)) is is_end
    assert tokens.types[1] == token_type


def test_what_merges_make_is_text() -> None:
    texts = [*"<EOT>", "<E", "OT", "OT>", "<EOT>"]
    merges = ["< E", "O T", "OT >", "<E OT>"]
    assert tokens_of(texts, [NORMAL] * len(texts), model="gpt2", merges=merges).end_token_ids == ()
    assert ends(texts, [NORMAL] * len(texts), model="gpt2", merges=merges[:3]) == {"<EOT>"}


@pytest.mark.parametrize(
    ("metadata", "more"),
    [
        ({"eos_token_id": 3}, {"a"}),
        ({"eot_token_id": 3}, {"a"}),
        ({"eom_token_id": 4}, {"b"}),
        ({"eos_token_ids": [3, 4]}, {"a", "b"}),
        ({"eos_token_id": 2, "eos_token_ids": [4]}, {"b"}),
        ({"fim_pad_token_id": 3, "fim_rep_token_id": 4}, {"a", "b"}),
        ({"eos_token_id": True}, set()),
    ],
)
def test_each_key_of_the_metadata(metadata: dict[str, Any], more: set[str]) -> None:
    assert ends(TEXTS, TYPES, model="gpt2", **metadata) == {"</s>", "<|end|>", "<|im_end|>"} | more


def test_where_a_sentencepiece_vocabulary_has_them() -> None:
    texts = ["<unk>", "<start>", "<stop>", "a"]
    tokens = tokens_of(texts, [UNKNOWN, CONTROL, CONTROL, NORMAL], model="llama")
    assert (tokens.bos_token_id, tokens.end_token_ids) == (1, (2,))
    as_bytes = tokens_of(texts, [UNKNOWN, BYTE, BYTE, NORMAL], model="llama")
    assert (as_bytes.bos_token_id, as_bytes.end_token_ids) == (None, ())
    assert tokens_of(texts, [UNKNOWN, CONTROL, CONTROL, NORMAL], model="gpt2").end_token_ids == ()


def test_an_answer_of_several_messages_goes_on_behind_each() -> None:
    texts = ["<|end|>", "<|return|>", "<|call|>"]
    assert ends(texts, [CONTROL] * 3, model="gpt2", eot_token_id=0) == {"<|return|>", "<|call|>"}
    assert ends(texts[:2], [CONTROL] * 2, model="gpt2") == {"<|end|>", "<|return|>"}
    assert ends(["<|end|>", "<|flush|>", "<|calls|>"], [CONTROL] * 3) == {"<|flush|>", "<|calls|>"}
    assert ends(["</s>", "<|tool_response>"], [CONTROL] * 2) == {"<|tool_response>"}


def test_files_that_a_gap_is_filled_from_are_parted_by_ends() -> None:
    texts = ["<|fim_prefix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "a"]
    tokens = tokens_of(texts, [USER_DEFINED] * 4 + [NORMAL], model="gpt2")
    assert set(tokens.end_token_ids) == {1, 2, 3}
    assert tokens.types == [CONTROL] * 4 + [NORMAL]


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelFormatError, match="8 tokens and 2 token types"):
        tokens_of(TEXTS, TYPES[:2])


def test_ids_outside_the_vocabulary_are_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert inside_vocabulary([3, 7, 3, -1, 8], 8, Path("model.gguf")) == (3, 7)
    assert [record.token_id for record in caplog.records] == [-1, 8]  # type: ignore[attr-defined]


# Hugging Face checkpoints


def added(token_id: int, content: str, *, special: bool = True) -> dict[str, Any]:
    return {"id": token_id, "content": content, "special": special}


TOKENIZER = {"model": {"vocab": {"a": 0, "</s>": 1}}, "added_tokens": [added(2, "<|stop|>"), added(3, "<|user|>")]}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, set()),
        ({"config.json": {"eos_token_id": 5}}, {5}),
        ({"config.json": {"eos_token_id": [5, 6]}, "generation_config.json": {"eos_token_id": 7}}, {5, 6, 7}),
        ({"config.json": {"eos_token_id": None, "text_config": {"eos_token_id": [8]}}}, {8}),
        ({"tokenizer_config.json": {"eos_token": "<|stop|>"}}, {2}),
        ({"tokenizer_config.json": {"eos_token": {"content": "<|stop|>", "lstrip": False}}}, {2}),
        ({"tokenizer_config.json": {"eos_token": "</s>"}, "config.json": {"eos_token_id": 3}}, {1, 3}),
        ({"tokenizer_config.json": {"eos_token": "unknown"}}, set()),
        ({"special_tokens_map.json": {"eos_token": {"content": "<|stop|>"}}}, {2}),
        ({"tokenizer_config.json": {"added_tokens_decoder": {"9": {"content": "<|im_end|>"}}}}, {9}),
        ({"added_tokens.json": {"<|eot_id|>": 11}}, {11}),
        ({"config.json": {"eos_token_id": True}}, set()),
    ],
)
def test_each_file_of_a_checkpoint(files: dict[str, Any], expected: set[int], tmp_path: Path) -> None:
    for name, content in ({"tokenizer.json": TOKENIZER} | files).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert set(read_checkpoint_end_tokens(tmp_path)) == expected


@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_by_their_names(special: bool, tmp_path: Path) -> None:
    names = [*sorted(END_TOKENS - {"<|return|>", "<|call|>", "<|calls|>", "<|flush|>"}), "</s>", "<|other|>"]
    tokens = [added(token_id, name, special=special) for token_id, name in enumerate(names)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": tokens}))
    found = {names[token_id] for token_id in read_checkpoint_end_tokens(tmp_path)}
    assert found == set(names) - {"<|other|>", "</s>"}


def test_a_special_token_of_the_ambiguous_name_ends(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [added(0, "</s>"), added(1, "<s>")]}))
    assert read_checkpoint_end_tokens(tmp_path) == (0,)


def test_a_unigram_vocabulary_is_a_list(tmp_path: Path) -> None:
    content = {"model": {"vocab": [["<unk>", 0.0], ["</s>", 0.0]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    assert read_checkpoint_end_tokens(tmp_path) == (1,)
