"""The tokenizer with vocabularies made here: ids equal an independent implementation's, and text survives a round trip."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from pagoda.models.errors import ModelFormatError
from pagoda.models.model import Model
from pagoda.text import gguf_vocabulary, hf_vocabulary
from pagoda.text.byte_alphabet import BYTE_OF_CHARACTER, CHARACTER_OF_BYTE
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.tiny_model import CONTROL_TOKENS, END_OF_TEXT, IM_END, IM_START
from tests.unit.pagoda.text.independent_bpe import GPT2_PATTERN, HARD_TEXTS, IndependentBPE

CONTROL, NORMAL, USER_DEFINED = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.USER_DEFINED
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Name of the pre-tokenizer, its pattern, and whether digits are split first.
KINDS = [
    ("gpt-2", GPT2_PATTERN, False),
    ("smollm", GPT2_PATTERN, True),
    ("llama-bpe", LLAMA3_PATTERN, False),
    ("qwen2", LLAMA3_PATTERN.replace("{1,3}", ""), False),
]


@pytest.fixture(scope="module")
def merges() -> list[str]:
    """Learn merges from the hard texts, so that their words and runs of spaces become long tokens."""
    learner = LibraryTokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=CHARACTER_OF_BYTE, show_progress=False, max_token_length=12
    )
    learner.train_from_iterator(HARD_TEXTS, trainer)
    return [" ".join(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]


def vocabulary_of(merges: list[str]) -> list[str]:
    """Return the vocabulary: bytes, then control tokens, then the results of the merges, each once."""
    return list(dict.fromkeys([*CHARACTER_OF_BYTE, *CONTROL_TOKENS, *(merge.replace(" ", "") for merge in merges)]))


def write_vocabulary(path: Path, tokens: list[str], types: list[int], **metadata: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for key, value in metadata.items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}[
            type(value)
        ]
        add(f"tokenizer.ggml.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def load_gguf(path: Path) -> Tokenizer:
    return Tokenizer(gguf_vocabulary.read_vocabulary(path), vocab_size=10_000, eos_token_ids=())


def byte_level(path: Path, merges: list[str], **metadata: Any) -> Tokenizer:
    tokens = vocabulary_of(merges)
    types = [CONTROL if token in CONTROL_TOKENS else NORMAL for token in tokens]
    return load_gguf(write_vocabulary(path, tokens, types, model="gpt2", merges=merges, **metadata))


@pytest.mark.parametrize(("pre", "pattern", "split_digits"), KINDS, ids=[kind[0] for kind in KINDS])
def test_ids_agree_with_an_independent_implementation(
    tmp_path: Path, merges: list[str], pre: str, pattern: str, split_digits: bool
) -> None:
    tokenizer = byte_level(tmp_path / "v.gguf", merges, pre=pre)
    vocabulary = {token: token_id for token_id, token in enumerate(vocabulary_of(merges))}
    independent = IndependentBPE(vocabulary, merges, pattern, split_digits=split_digits)
    for text in HARD_TEXTS:
        composed = text.replace("e\u0301", "\u00e9") if pre == "qwen2" else text
        assert tokenizer.encode(text, parse_control_tokens=False) == independent.encode(composed)


def test_merges_make_fewer_tokens_than_bytes(tmp_path: Path, merges: list[str]) -> None:
    tokenizer = byte_level(tmp_path / "v.gguf", merges, pre="smollm")
    assert len(tokenizer.encode("the quick brown fox")) < 10


@given(text=st.text())
@settings(deadline=None)
def test_round_trip(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tiny_tokenizer.decode(ids) == text


def test_control_tokens_of_a_raw_prompt_are_parsed_unless_told(tiny_tokenizer: Tokenizer) -> None:
    text = "<|im_start|>system<|im_end|>"
    assert tiny_tokenizer.encode(text) == [IM_START, *b"system", IM_END]
    assert tiny_tokenizer.encode(text, parse_control_tokens=False) == list(text.encode())


def test_decoding_skips_special_tokens_unless_told(tiny_tokenizer: Tokenizer) -> None:
    ids = [IM_START, ord("a"), IM_END]
    assert tiny_tokenizer.decode(ids) == "a"
    assert tiny_tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>a<|im_end|>"
    assert tiny_tokenizer.token_text(IM_END) == "<|im_end|>"
    assert tiny_tokenizer.token_bytes(IM_END) == b""


def test_what_the_model_says_about_itself(tiny_tokenizer: Tokenizer, tiny_model: Model) -> None:
    assert tiny_tokenizer.vocab_size == tiny_model.config.vocab_size == 259
    assert tiny_tokenizer.bos_token_id == IM_START
    assert tiny_tokenizer.eos_token_ids == (IM_END, END_OF_TEXT)


def test_ids_outside_the_vocabulary_have_no_text(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.decode([-1, ord("a"), 1_000_000]) == "a"


def test_halves_of_characters_become_replacement_characters(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.decode(tiny_tokenizer.encode("a\ud83db")) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("add_bos", [True, False])
def test_the_beginning_of_sequence_as_the_metadata_says(tmp_path: Path, add_bos: bool) -> None:
    tokenizer = byte_level(tmp_path / "v.gguf", ["h e"], pre="smollm", bos_token_id=IM_START, add_bos_token=add_bos)
    assert tokenizer.encode("a") == [IM_START] * add_bos + [ord("a")]
    assert tokenizer.encode("a", add_special_tokens=False) == [ord("a")]


def test_user_defined_tokens_are_found_in_text(tmp_path: Path) -> None:
    tokens = [*CHARACTER_OF_BYTE, "<tool call>"]
    path = write_vocabulary(tmp_path / "v.gguf", tokens, [NORMAL] * 256 + [USER_DEFINED], model="gpt2", pre="smollm")
    tokenizer = load_gguf(path)
    assert tokenizer.encode("a<tool call>") == [ord("a"), 256]
    assert tokenizer.decode([256]) == "<tool call>"


def test_a_vocabulary_whose_merges_are_missing_is_refused(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "v.gguf", [*CHARACTER_OF_BYTE, "he"], [NORMAL] * 257, model="gpt2")
    with pytest.raises(ModelFormatError, match="no merges"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"model": "gpt2", "pre": "whitespace"}, "'whitespace' is not supported .known: a.x-4.0, afmoe, bailingmoe"),
        ({"model": "rwkv"}, "'rwkv' is not supported .known: gpt2, llama, gemma4, bert, t5"),
        ({"model": "gpt2", "merges": ["ab"]}, "not two tokens"),
        ({"model": "gpt2", "merges": ["zz y"]}, "the vocabulary is damaged"),
        ({"model": "llama"}, "scores"),
        ({"model": "gpt2", "bos_token_id": 256}, "token 256 is outside the vocabulary"),
        ({"model": "gpt2", "pre": ["smollm"]}, "pre-tokenizer ..smollm.. is not supported"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, metadata: dict[str, Any], message: str) -> None:
    path = write_vocabulary(tmp_path / "v.gguf", CHARACTER_OF_BYTE, [NORMAL] * 256, **metadata)
    with pytest.raises(ModelFormatError, match=message):
        load_gguf(path)


def test_the_alphabet_is_the_librarys() -> None:
    assert set(BYTE_OF_CHARACTER) == set(pre_tokenizers.ByteLevel.alphabet())


# SentencePiece by score: the best union of neighbours first, the leftmost of equal ones.

PIECES = ["▁", *dict.fromkeys("thequickbrown12"), "th", "the", "▁the", "▁t", "▁q", "qu", "▁qu", "ui", "ick", "ck"]
PIECES += ["▁quick", "uick", "br", "ow", "own", "▁b", "▁br", "row", "▁▁"]


def joined_by_score(text: str, score_of: dict[str, float]) -> list[str]:
    pieces = list(text)
    while True:
        unions = [(score_of.get(left + right), place) for place, (left, right) in enumerate(pairwise(pieces))]
        known = [(-score, place) for score, place in unions if score is not None]
        if not known:
            return pieces
        place = min(known)[1]
        pieces[place : place + 2] = ["".join(pieces[place : place + 2])]


def test_sentencepiece_joins_by_score_and_spells_the_rest_in_bytes(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    types = [gguf.TokenType.UNKNOWN, CONTROL, CONTROL, *[gguf.TokenType.BYTE] * 256, *[NORMAL] * len(PIECES)]
    scores = [-float(place) for place in range(len(tokens))]
    path = write_vocabulary(tmp_path / "v.gguf", tokens, types, model="llama", scores=scores, bos_token_id=1)
    tokenizer = load_gguf(path)
    score_of = dict(zip(tokens, scores, strict=True))
    for text in ("the quick brown", "the  quick", "thethe 12 uick", "t"):
        expected = [tokens.index(piece) for piece in joined_by_score("▁" + text.replace(" ", "▁"), score_of)]
        assert tokenizer.encode(text) == [1, *expected]
        assert tokenizer.decode(expected) == " " + text
    assert tokenizer.encode("é", add_special_tokens=False) == [tokens.index("▁"), 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("</s>é", parse_control_tokens=False)) == " </s>é"
    assert tokenizer.encode("</s>é") == [1, 2, tokens.index("▁"), 3 + 0xC3, 3 + 0xA9]


# Hugging Face's tokenizer.json


@pytest.fixture
def checkpoint(tmp_path: Path, merges: list[str]) -> Path:
    tokens = [token for token in vocabulary_of(merges) if token not in CONTROL_TOKENS]
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    library = LibraryTokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, pairs))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(token) for token in CONTROL_TOKENS])
    library.add_tokens([AddedToken("<think>", normalized=False)])
    bos = ("<|im_start|>", library.token_to_id("<|im_start|>"))
    library.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    library.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def load_checkpoint(directory: Path) -> Tokenizer:
    return Tokenizer(hf_vocabulary.read_vocabulary(directory), vocab_size=10_000, eos_token_ids=())


def test_a_checkpoints_tokenizer_gives_the_librarys_ids(checkpoint: Path) -> None:
    library = LibraryTokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer = load_checkpoint(checkpoint)
    for text in HARD_TEXTS:
        doubled = text.startswith(
            "<|im_start|>"
        )  # the library doubles the token; here the sequence begins with it once
        assert tokenizer.encode(text) == library.encode(text).ids[doubled:]
        assert tokenizer.decode(tokenizer.encode(text, parse_control_tokens=False)) == text


def test_a_checkpoints_special_tokens_are_text_where_told_and_its_added_tokens_are_found(checkpoint: Path) -> None:
    tokenizer = load_checkpoint(checkpoint)
    ids = tokenizer.encode("<|im_end|><think>", parse_control_tokens=False)
    assert ids[0] == tokenizer.bos_token_id == tokenizer.special_tokens["<|im_start|>"]
    assert not set(ids[1:]) & set(tokenizer.special_tokens.values())
    assert tokenizer.token_text(ids[-1]) == "<think>"
    assert tokenizer.decode(ids) == "<|im_end|><think>"


def test_a_checkpoints_configuration_decides_about_the_beginning_of_sequence(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": False}))
    assert load_checkpoint(checkpoint).encode("") == []


def test_a_checkpoint_without_tokenizer_or_with_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"no tokenizer\.json"):
        load_checkpoint(tmp_path)
    for content in ("{", "[]", "{}", '{"model": {"vocab": 3}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ModelFormatError, match="damaged"):
            load_checkpoint(tmp_path)
