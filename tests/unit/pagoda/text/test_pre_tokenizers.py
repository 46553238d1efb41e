"""Pre-tokenizers by name: they split like llama.cpp, or like the model's expression where llama.cpp approximates it.

llama_cpp_splits.json holds what llama.cpp itself makes of each text with a vocabulary in which any two bytes are a token:
the lengths of the tokens, one digit each. It leaves out texts on which llama.cpp is known to differ from the models
(letters' case outside ASCII, Unicode's spaces in the DeepSeek expressions, composed characters).
"""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Sequence_

from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE
from pagoda.text.pre_tokenizers import PRE_TOKENIZERS
from tests.unit.pagoda.text.independent_bpe import HARD_TEXTS, IndependentBPE

GOLDEN = json.loads(Path(__file__).with_name("llama_cpp_splits.json").read_text())
CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END"
)
NUMBERS = ("12", "abc1234", "1234567 1234567abc", "12345.6789", "1,234", "a1b22c333d4444e", "12\n1234\n", "٣٤٥٦")
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MODELS_OWN = {
    "tekken": CASED_WORDS.replace("END", "") + r"|\p{N}" + REST,
    "gpt-4o": CASED_WORDS.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?") + r"|\p{N}{1,3}" + REST,
    "bailingmoe": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+",
    "seed-coder": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "kimi-k2": r"[\p{Han}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "exaone-moe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
    "jais-2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
    r"|\s{1,2}(?!\S)|\s{1}",
    "ufakzeka": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Expressions in the models' tokenizer.json, by name."""

MODELS_OWN_IN_STEPS = {
    "superbpe": (r"\p{N}+", r"(?=(\d{3})+(?!\d))"),
    "tiny_aya": (r"\d{1,3}(?=(?:\d{3})*\b)", MODELS_OWN["gpt-4o"]),
    "cohere2moe": (r"\d{1,3}(?=(?:\d{3})*\b)", MODELS_OWN["gpt-4o"]),
    "minicpm5": (
        r"\p{N}{1,3}",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
    ),
}
"""Expressions that the models' tokenizer.json applies one after the other, by name."""


@pytest.fixture(scope="module")
def pairs() -> Sequence[tuple[str, str]]:
    return list(product(CHARACTER_OF_BYTE, CHARACTER_OF_BYTE))


@pytest.fixture(scope="module")
def any_two_bytes(pairs: Sequence[tuple[str, str]]) -> Tokenizer:
    tokens = [*CHARACTER_OF_BYTE, *map("".join, pairs)]
    return Tokenizer(models.BPE({token: token_id for token_id, token in enumerate(tokens)}, list(pairs)))


@pytest.mark.parametrize("name", GOLDEN["token_lengths"])
def test_splits_where_llama_cpp_does(name: str, any_two_bytes: Tokenizer) -> None:
    any_two_bytes.pre_tokenizer = PRE_TOKENIZERS[name].build()
    for index, expected in GOLDEN["token_lengths"][name].items():
        text = GOLDEN["texts"][int(index)]
        tokens = any_two_bytes.encode(text, add_special_tokens=False).tokens
        assert "".join(str(len(token)) for token in tokens) == expected, text


@pytest.mark.parametrize("name", MODELS_OWN)
def test_splits_as_the_models_own_expression(
    name: str, any_two_bytes: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> None:
    any_two_bytes.pre_tokenizer = PRE_TOKENIZERS[name].build()
    independent = IndependentBPE(any_two_bytes.get_vocab(), [" ".join(pair) for pair in pairs], MODELS_OWN[name])
    for text in (*HARD_TEXTS, *GOLDEN["texts"]):
        assert any_two_bytes.encode(text, add_special_tokens=False).ids == independent.encode(text), text


@pytest.mark.parametrize("name", MODELS_OWN_IN_STEPS)
def test_splits_as_the_models_own_steps(name: str) -> None:
    steps = [Split(Regex(step), behavior="isolated") for step in MODELS_OWN_IN_STEPS[name]]
    own = Sequence_([*steps, ByteLevel(add_prefix_space=False, use_regex=False)])
    ours = PRE_TOKENIZERS[name].build()
    for text in (*HARD_TEXTS, *GOLDEN["texts"], *NUMBERS):
        assert ours.pre_tokenize_str(text) == own.pre_tokenize_str(text), text


@pytest.mark.parametrize("name", ["superbpe", "afmoe", "tiny_aya"])
def test_digits_are_grouped_from_the_right(name: str) -> None:
    pre_tokenizer = PRE_TOKENIZERS[name].build()
    for length in range(1, 12):
        number = "7" * length
        expected = f"{int(number):,}".split(",")
        assert [piece for piece, _ in pre_tokenizer.pre_tokenize_str(number)] == expected


@pytest.mark.parametrize("name", ["superbpe", "afmoe", "tiny_aya", "jais-2"])
def test_time_is_linear(name: str) -> None:
    """Split texts that would take minutes with an expression that looks ahead from each character."""
    for text in ("7" * 200_000, "7" * 200_000 + "a", " " * 100_000 + "a"):
        assert PRE_TOKENIZERS[name].build().pre_tokenize_str(text)


def test_every_name_builds() -> None:
    for name, pre_tokenizer in PRE_TOKENIZERS.items():
        assert pre_tokenizer.build().pre_tokenize_str("It's 2024, 塔!"), name
