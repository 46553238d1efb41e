"""Score-based vocabularies in GGUF files: their ids equal those of the sentencepiece library."""

import io
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece

from pagoda.models.errors import ModelFormatError
from pagoda.text import gguf_vocabulary
from pagoda.text.tokenizer import Tokenizer
from tests.unit.pagoda.text.independent_bpe import HARD_TEXTS

TEXTS = [text for text in HARD_TEXTS if "\0" not in text]
MORE_TEXTS = ("<code>  x = 1</code>", "▁ ▁▁ typed", "a▁b", "\n\n\n", "塔の上", "  ", "<s>", "<unk></s>", "<0x41>")


def train(path: Path, **options: Any) -> sentencepiece.SentencePieceProcessor:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=trained,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        character_coverage=0.98,
        minloglevel=2,
        max_sentence_length=20_000,
        **options,
    )
    path.write_bytes(trained.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())


def write_gguf(path: Path, model: sentencepiece.SentencePieceProcessor, user_defined: list[str], **flags: bool) -> Path:
    """Write a GGUF file like llama.cpp's converter: pieces unchanged, user-defined ones with plain spaces."""
    writer = gguf.GGUFWriter(path, "llama")
    ids = range(model.get_piece_size())
    pieces = [model.id_to_piece(token_id) for token_id in ids]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.replace("▁", " ") if piece in user_defined else piece for piece in pieces])
    writer.add_token_scores([model.get_score(token_id) for token_id in ids])
    writer.add_token_types([_token_type(model, token_id, user_defined) for token_id in ids])
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    for key, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def _token_type(model: sentencepiece.SentencePieceProcessor, token_id: int, user_defined: list[str]) -> gguf.TokenType:
    if model.is_unknown(token_id):
        return gguf.TokenType.UNKNOWN
    if model.is_control(token_id):
        return gguf.TokenType.CONTROL
    if model.is_byte(token_id):
        return gguf.TokenType.BYTE
    return gguf.TokenType.USER_DEFINED if model.id_to_piece(token_id) in user_defined else gguf.TokenType.NORMAL


def load(path: Path) -> Tokenizer:
    return Tokenizer(gguf_vocabulary.read_vocabulary(path), vocab_size=10_000, eos_token_ids=())


def literal(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text as sentencepiece reads it: the name of a control token is text."""
    return tokenizer.encode(text, add_special_tokens=False, parse_control_tokens=False)


@pytest.mark.parametrize("add_space_prefix", [True, False])
@pytest.mark.parametrize("remove_extra_whitespaces", [True, False])
def test_ids_agree_with_sentencepiece(tmp_path: Path, add_space_prefix: bool, remove_extra_whitespaces: bool) -> None:
    flags = {"remove_extra_whitespaces": remove_extra_whitespaces}
    model = train(tmp_path / "m.model", add_dummy_prefix=add_space_prefix, **flags)
    path = write_gguf(tmp_path / "v.gguf", model, [], add_space_prefix=add_space_prefix, **flags)
    tokenizer = load(path)
    for text in (*HARD_TEXTS, *MORE_TEXTS):
        assert literal(tokenizer, text) == model.encode(text), text


def test_user_defined_pieces_come_first(tmp_path: Path) -> None:
    """Runs of spaces and newlines, and HTML, are user-defined pieces in Gemma's vocabulary."""
    user_defined = ["\n\n", "\n\n\n", "▁▁", "▁▁▁▁", "<code>", "</code>"]
    model = train(
        tmp_path / "m.model",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=user_defined,
    )
    tokenizer = load(write_gguf(tmp_path / "v.gguf", model, user_defined, add_space_prefix=False))
    for text in (*HARD_TEXTS, *MORE_TEXTS):
        if (
            "▁" not in text
        ):  # sentencepiece reads a typed "▁" as a space; llama.cpp and Pagoda do not if spaces are user-defined
            assert literal(tokenizer, text) == model.encode(text), text


def test_prompts_begin_with_bos_once(tmp_path: Path) -> None:
    model = train(tmp_path / "m.model", remove_extra_whitespaces=False)
    tokenizer = load(write_gguf(tmp_path / "v.gguf", model, []))
    assert tokenizer.encode("the") == [model.bos_id(), *model.encode("the")]
    assert tokenizer.encode("<s>the").count(model.bos_id()) == 1


def test_text_survives_the_way_back(tmp_path: Path) -> None:
    model = train(tmp_path / "m.model", remove_extra_whitespaces=False)
    tokenizer = load(write_gguf(tmp_path / "v.gguf", model, []))
    for text in HARD_TEXTS[1:]:
        assert tokenizer.decode(tokenizer.encode(text)) == " " + text


def test_a_piece_too_long_to_cut_everywhere_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["a", "a" * 600])
    writer.add_token_scores([0.0, 0.0])
    writer.add_token_types([gguf.TokenType.NORMAL] * 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelFormatError, match="more than 512 characters"):
        load(tmp_path / "v.gguf")
