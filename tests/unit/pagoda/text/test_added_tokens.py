"""Added tokens of each kind in each kind of vocabulary: prompts get the same ids as from the tokenizers library.

Text typed in a message is compared with the library too. For that, the template's control tokens have names that do not occur in
text, so that the library knows no other control tokens.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer
from transformers import PreTrainedTokenizerFast

from gateway.prompts.chat_template import ChatTemplate
from gateway.prompts.conversation import ChatEnding
from pagoda.text import hf_vocabulary
from pagoda.text.byte_alphabet import CHARACTER_OF_BYTE
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.chats import encoded_chat, rendered_chat

CONTROL, UNTYPED = ("<|user|>", "<|end|>"), ("\ue100", "\ue101")
TEMPLATE = "{% for message in messages %}USER\n{{ message.content }}END\n{% endfor %}"
SPACED = TEMPLATE.replace("END", "\nEND")
"""Template with a newline before END, so that its control tokens are found whatever text precedes them."""
LETTERS = ["▁", *"abcehiou <|>\n", "ab", "▁a", "▁ab", "er", "end", "use"]
MERGES = [("a", "b"), ("▁", "a"), ("▁", "ab"), ("▁a", "b"), ("e", "h")]
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> LibraryTokenizer:
    tokens = [*CHARACTER_OF_BYTE, "ab", "Ġa", "Ġab"]
    merges = [("a", "b"), ("Ġ", "a"), ("Ġ", "ab")]
    tokenizer = LibraryTokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def pieces() -> LibraryTokenizer:
    tokens = list(
        dict.fromkeys(["<unk>", *BYTE_PIECES, *LETTERS, *"".join(map("".join, MERGES)), *map("".join, MERGES)])
    )
    merges = [pair for pair in MERGES if pair[0] in tokens and pair[1] in tokens]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return LibraryTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))


def metaspace(scheme: str) -> LibraryTokenizer:
    tokenizer = pieces()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def in_a_sequence() -> LibraryTokenizer:
    tokenizer = pieces()
    steps = [pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


def prepending() -> LibraryTokenizer:
    tokenizer = pieces()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def unigram() -> LibraryTokenizer:
    scores = [("<unk>", 0.0), *((piece, -2.0 - len(piece)) for piece in BYTE_PIECES)]
    scores += [(piece, -float(index)) for index, piece in enumerate(LETTERS)]
    # As in real vocabularies, control tokens are also pieces of the model, with the best score.
    scores += [(name, 0.0) for name in (*CONTROL, *UNTYPED)]
    tokenizer = LibraryTokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


def lowering() -> LibraryTokenizer:
    tokenizer = pieces()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


KINDS: dict[str, Callable[[], LibraryTokenizer]] = {
    "byte-level": byte_level,
    "always": lambda: metaspace("always"),
    "first": lambda: metaspace("first"),
    "never": lambda: metaspace("never"),
    "first in a sequence": in_a_sequence,
    "prepending": prepending,
    "unigram": unigram,
    "lowering": lowering,
}
FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in product((False, True), repeat=len(FLAGS))]


def library_of(kind: str, flags: dict[str, bool], control: tuple[str, ...] = CONTROL) -> LibraryTokenizer:
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens([AddedToken(name, **flags) for name in control])
    tokenizer.add_tokens([AddedToken("<think>", **flags), AddedToken("ou", **flags)])
    return tokenizer if control == CONTROL else without_names(tokenizer)


def load(library: LibraryTokenizer, directory: Path) -> Tokenizer:
    directory.mkdir(exist_ok=True)
    library.save(str(directory / "tokenizer.json"))
    return Tokenizer(hf_vocabulary.read_vocabulary(directory), vocab_size=10_000, eos_token_ids=())


def template_of(tokenizer: Tokenizer, source: str = TEMPLATE, names: tuple[str, ...] = CONTROL) -> ChatTemplate:
    return ChatTemplate(source.replace("USER", names[0]).replace("END", names[1]), {}, tokenizer)


def chat(*contents: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


words = st.sampled_from(["ab", " ", "\n", "  ", "a", "\t", "ou", "you", "<think>", "é", "<", "<|", "|>", "▁", "\u00a0"])
names = st.sampled_from([*CONTROL, "<|end", "end|>", "<|END|>", "<|e", "x<|end|>x", "<|user|><|end|>", "＜|end|＞"])
plain_texts = st.lists(words, max_size=8).map("".join)
raw_texts = st.lists(words | st.sampled_from(CONTROL), max_size=10).map("".join)
typed_texts = st.lists(words | names, max_size=8).map("".join)
many = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Loaded:
    """The library's tokenizer and ours by kind, for each combination of flags. Its `repr` is short in failures."""

    def __init__(self, directory: Path, control: tuple[str, ...]) -> None:
        self._of = {
            kind: [
                (library := library_of(kind, flags, control), load(library, directory / f"{kind}{index}"))
                for index, flags in enumerate(COMBINATIONS)
            ]
            for kind in KINDS
        }

    def __getitem__(self, kind: str) -> list[tuple[LibraryTokenizer, Tokenizer]]:
        return self._of[kind]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(tmp_path_factory.mktemp("tokenizers"), CONTROL)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Return the same vocabularies with control tokens whose names do not occur in text."""
    return Loaded(tmp_path_factory.mktemp("references"), UNTYPED)


@pytest.mark.parametrize("kind", KINDS)
@given(text=raw_texts, others=st.integers(0, len(COMBINATIONS) - 1))
@many
def test_raw_prompts(loaded: Loaded, kind: str, text: str, others: int) -> None:
    library, tokenizer = loaded[kind][others]
    assert tokenizer.encode(text) == library.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
@given(text=plain_texts, more=plain_texts, others=st.integers(0, len(COMBINATIONS) - 1))
@many
def test_chats(loaded: Loaded, kind: str, text: str, more: str, others: int) -> None:
    library, tokenizer = loaded[kind][others]
    template = template_of(tokenizer)
    rendered = rendered_chat(template, chat(text, more), ending=ChatEnding.AS_IS)
    assert encoded_chat(template, chat(text, more)) == library.encode(rendered).ids


@pytest.mark.parametrize("kind", KINDS)
@given(text=typed_texts, more=typed_texts, others=st.integers(0, len(COMBINATIONS) - 1))
@many
def test_chats_in_which_control_tokens_are_typed(
    loaded: Loaded, reference: Loaded, kind: str, text: str, more: str, others: int
) -> None:
    if kind == "prepending":
        others &= ~1  # a normalized name would have the prefix too and would never be found
    _, tokenizer = loaded[kind][others]
    library, untyped = reference[kind][others]
    rendered = rendered_chat(template_of(untyped, SPACED, UNTYPED), chat(text, more), ending=ChatEnding.AS_IS)
    renamed = {
        library.token_to_id(name): tokenizer.special_tokens[own] for name, own in zip(UNTYPED, CONTROL, strict=True)
    }
    expected = [renamed.get(token_id, token_id) for token_id in library.encode(rendered).ids]
    assert encoded_chat(template_of(tokenizer, SPACED), chat(text, more)) == expected


def without_names(library: LibraryTokenizer) -> LibraryTokenizer:
    """Replace the control tokens' names, which are pieces of a Unigram model, by other names."""
    content = json.loads(library.to_str())
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        content["model"]["vocab"] = [
            [f"\U0010fffe{text}" if text in CONTROL else text, score] for text, score in vocabulary
        ]
    return LibraryTokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_agrees(loaded: Loaded, kind: str, tmp_path: Path) -> None:
    """transformers uses the library with the flags of tokenizer_config.json, which take precedence over tokenizer.json."""
    library, _ = loaded[kind][0]
    library.save(str(tmp_path / "tokenizer.json"))
    stripping = {"content": "<|end|>", "rstrip": True, "lstrip": True, "normalized": False, "special": True}
    config = {"added_tokens_decoder": {str(library.token_to_id("<|end|>")): stripping | {"single_word": False}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = Tokenizer(hf_vocabulary.read_vocabulary(tmp_path), vocab_size=10_000, eos_token_ids=())
    for text in ("ab <|end|> \n ab", "<|user|>\nab<|end|>\n<|end|> <think> ou", "  ab", "<|user|> ab"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
