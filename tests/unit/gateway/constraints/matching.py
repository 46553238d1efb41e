"""Checks of texts against grammars, by llguidance with a small vocabulary."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from weakref import WeakKeyDictionary

from llguidance import LLMatcher

from gateway.constraints.compose import text_constraint
from gateway.constraints.text_rule import TextRule
from pagoda.models.store import ModelStore
from pagoda.text.grammar_tokens import grammar_tokenizer, parser_limits
from pagoda.text.tokenizer import Tokenizer
from tests.fakes.tiny_model import write_tiny_gguf

MERGES = ('{ "', '" :', "t r", "a b", "< t", "} }", "> \u010a")


@cache
def tiny_tokenizer() -> Tokenizer:
    """Return the tiny model's tokenizer, with a few tokens of two characters."""
    with tempfile.TemporaryDirectory() as directory:
        path = write_tiny_gguf(Path(directory) / "tiny.gguf", merges=MERGES)
        return Tokenizer.load(ModelStore(Path(directory)).get(str(path)))


class Vocabulary:
    """A vocabulary in llguidance's form."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._for_grammars = grammar_tokenizer(tokenizer)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        if tokenizer not in _vocabularies:
            _vocabularies[tokenizer] = cls(tokenizer)
        return _vocabularies[tokenizer]

    def new_matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._for_grammars, grammar, log_level=0, limits=parser_limits())
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(self, grammar: str, text: str, *, parse_control_tokens: bool = True) -> bool:
        """Return True if the grammar allows each token of the text, and its end after it."""
        ids = self._tokenizer.encode(text, add_special_tokens=False, parse_control_tokens=parse_control_tokens)
        return self.accepts_tokens(grammar, ids)

    def accepts_tokens(self, grammar: str, token_ids: list[int]) -> bool:
        matcher = self.new_matcher(grammar)
        for token_id in token_ids:
            if not _allows(matcher, token_id):
                return False
            assert matcher.consume_token(token_id), matcher.get_error()
        return matcher.is_accepting()


_vocabularies: WeakKeyDictionary[Tokenizer, Vocabulary] = WeakKeyDictionary()


def _allows(matcher: LLMatcher, token_id: int) -> bool:
    # The mask, not only the parser: it is what a worker applies.
    mask = matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()
    return bool(mask[token_id // 8] >> token_id % 8 & 1)


def rule_accepts(rule: TextRule, text: str) -> bool:
    grammar = text_constraint(rule, tiny_tokenizer()).grammar
    return Vocabulary.of(tiny_tokenizer()).accepts(grammar, text, parse_control_tokens=False)


def refused(rule: TextRule, texts: list[str]) -> Iterator[str]:
    """Yield the texts that the rule refuses."""
    for text in texts:
        if not rule_accepts(rule, text):
            yield text
