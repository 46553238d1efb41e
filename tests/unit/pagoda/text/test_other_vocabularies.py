"""Vocabularies of the kinds gemma4, bert and t5, against the libraries that the models were made with."""

import io
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, normalizers
from transformers import BertTokenizerFast

from pagoda.models.errors import ModelFormatError
from pagoda.text.gguf_vocabulary import read_vocabulary
from pagoda.text.tokenizer import Tokenizer as OurTokenizer
from tests.unit.pagoda.text.gguf_vocabularies import VOCABULARIES, write_vocabulary

NORMAL, CONTROL, BYTE, UNKNOWN = (
    gguf.TokenType.NORMAL,
    gguf.TokenType.CONTROL,
    gguf.TokenType.BYTE,
    gguf.TokenType.UNKNOWN,
)
TEXTS = (
    "",
    " ",
    "the lower newest widest",
    "  the   lower\n\nnewest ",
    "Thé LOWER, (newest) 12.5 the!",
    "unknown 塔 wörds and\tmore",
    "the\n\n\nlower\n",
    "the [CLS] [SEP] </s> <bos> <unk>",
    "lowerlowerlowest thethe",
    "😀 ﬁ Ⅷ e\u0301",
)


def read(tmp_path: Path, metadata: dict[str, Any]) -> OurTokenizer:
    path = write_vocabulary(tmp_path / "v.gguf", {f"tokenizer.ggml.{key}": value for key, value in metadata.items()})
    return OurTokenizer(read_vocabulary(path), vocab_size=len(metadata["tokens"]), eos_token_ids=())


MERGES = ["t h", "th e", "l o", "lo w", "e r", "low er", "▁ the", "▁ low", "▁low er", "n e", "ne w", "▁ new"]
LINE_MERGES = ["\n \n", "\n\n \n\n"]


def gemma4(merges: list[str], *lines: str) -> dict[str, Any]:
    merged = [merge.replace(" ", "") for merge in merges]
    pieces = list(dict.fromkeys([*"\n▁abcdeghilmnorstuw.,!", *merged, *lines]))
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {
        "model": "gemma4",
        "tokens": tokens,
        "token_type": [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256 + [NORMAL] * len(pieces),
        "merges": merges,
        "bos_token_id": 2,
        "add_bos_token": True,
    }


def test_gemma4_is_bpe_of_characters(tmp_path: Path) -> None:
    metadata = gemma4([*MERGES, *LINE_MERGES])
    ours = read(tmp_path, metadata)
    vocabulary = {text: index for index, text in enumerate(metadata["tokens"])}
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in metadata["merges"])]
    theirs = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    theirs.normalizer = normalizers.Replace(" ", "▁")
    for text in TEXTS:
        ids = ours.encode(text, parse_control_tokens=False)
        assert ids == [2, *theirs.encode(text).ids], text
        assert ours.decode(ids) == text


def test_line_ends_that_no_merge_produces_are_found_whole(tmp_path: Path) -> None:
    metadata = gemma4(MERGES, "\n\n", "\n\n\n")
    ours = read(tmp_path, metadata)
    one, two, three = (metadata["tokens"].index("\n" * count) for count in (1, 2, 3))
    the = metadata["tokens"].index("the")
    for text, expected in (("\n", [one]), ("the\n\nthe", [the, two, the]), ("\n\n\nthe", [three, the])):
        assert ours.encode(text, add_special_tokens=False) == expected


def test_control_tokens_of_gemma4_are_only_parsed_on_demand(tmp_path: Path) -> None:
    ours = read(tmp_path, gemma4(MERGES))
    assert ours.encode("<eos>the", add_special_tokens=False)[0] == 1
    assert 1 not in ours.encode("<eos>the", parse_control_tokens=False)


@pytest.mark.parametrize("pre", ["granite-embed-multi-311m", "sarvam-moe"])
def test_the_same_kind_by_the_name_of_a_pre_tokenizer(pre: str, tmp_path: Path) -> None:
    metadata = gemma4(MERGES)
    expected = read(tmp_path, metadata)
    ours = read(tmp_path, {**metadata, "model": "gpt2", "pre": pre})
    assert [ours.encode(text) for text in TEXTS] == [expected.encode(text) for text in TEXTS]


WORDS = [
    "the",
    "low",
    "##er",
    "##est",
    "new",
    "wide",
    "##st",
    "word",
    "##s",
    "and",
    "more",
    "t",
    "##h",
    "##e",
    "unknown",
    "塔",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PUNCTUATION = [
    "(",
    ")",
    ",",
    ".",
    "!",
    "[",
    "]",
    "/",
    "<",
    ">",
    "1",
    "2",
    "##2",
    "5",
    "cl",
    "##s",
    "w",
    "##o",
    "##r",
    "##d",
]


def bert(**more: Any) -> dict[str, Any]:
    own = list(dict.fromkeys([*SPECIAL, *WORDS, *PUNCTUATION]))
    spelled = [token if token in SPECIAL else token[2:] if token.startswith("##") else f"▁{token}" for token in own]
    return {
        "model": "bert",
        "tokens": spelled,
        "token_type": [CONTROL] * len(SPECIAL) + [NORMAL] * (len(own) - len(SPECIAL)),
        "unknown_token_id": 1,
        "bos_token_id": 2,
        "seperator_token_id": 3,
        **more,
    }


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_is_wordpiece(lowercase: bool, tmp_path: Path) -> None:
    own = list(dict.fromkeys([*SPECIAL, *WORDS, *PUNCTUATION]))
    vocabulary = {token: index for index, token in enumerate(own)}
    theirs = BertTokenizerFast(vocab=vocabulary, do_lower_case=lowercase)
    ours = read(tmp_path, bert(**{"normalizer.lowercase": lowercase}))
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text
        assert not {2, 3} & set(ours.encode(text, add_special_tokens=False, parse_control_tokens=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown_token_id": 1000}, r"unknown_token_id must be the id of a token \(got 1000\)"),
        ({"seperator_token_id": 1000}, "seperator_token_id must be"),
    ],
    ids=str,
)
def test_bert_without_its_tokens(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read(tmp_path, bert(**change))


@pytest.fixture(scope="module")
def unigram() -> sentencepiece.SentencePieceProcessor:
    """Return a vocabulary that SentencePiece trained on a few sentences, with its usual normalization."""
    sentences = [f"the {word} is {other} and more" for word in ("lower", "newest", "widest") for other in TEXTS[2:8]]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 5),
        model_writer=model,
        vocab_size=60,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def t5(unigram: sentencepiece.SentencePieceProcessor, **more: Any) -> dict[str, Any]:
    ids = range(unigram.get_piece_size())
    types = [UNKNOWN if unigram.is_unknown(i) else CONTROL if unigram.is_control(i) else NORMAL for i in ids]
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    proto.ParseFromString(unigram.serialized_model_proto())
    return {
        "model": "t5",
        "tokens": [unigram.id_to_piece(i) for i in ids],
        "scores": [unigram.get_score(i) for i in ids],
        "token_type": types,
        "precompiled_charsmap": list(proto.normalizer_spec.precompiled_charsmap),
        "remove_extra_whitespaces": True,
        "add_space_prefix": True,
        **more,
    }


def test_t5_is_unigram(unigram: sentencepiece.SentencePieceProcessor, tmp_path: Path) -> None:
    ours = read(tmp_path, t5(unigram))
    for text in TEXTS:
        expected = unigram.encode(text)
        assert ours.encode(text, parse_control_tokens=False) == [*expected, 1], text
    assert ours.encode("the</s>", add_special_tokens=False)[-1] == 1
    without_end = read(tmp_path, t5(unigram, add_eos_token=False))
    assert without_end.encode("the") == unigram.encode("the")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [1.0]}, "tokens and 1 scores"),
        ({"precompiled_charsmap": [1, 2, 3]}, "table of characters is damaged"),
        ({"unknown_token_id": 1000}, "unknown_token_id must be"),
    ],
    ids=str,
)
def test_t5_that_is_damaged(
    unigram: sentencepiece.SentencePieceProcessor, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read(tmp_path, t5(unigram, **change))


def test_a_separator_ends_a_text_of_roberta(tmp_path: Path) -> None:
    metadata = {**VOCABULARIES["smollm"](), "tokenizer.ggml.pre": "roberta-bpe"}
    ours = OurTokenizer(
        read_vocabulary(write_vocabulary(tmp_path / "v.gguf", metadata)), vocab_size=1, eos_token_ids=()
    )
    assert ours.encode("ab")[-1] == metadata["tokenizer.ggml.eos_token_id"]
    assert ours.encode("ab", add_special_tokens=False) == ours.encode("ab")[:-1]
