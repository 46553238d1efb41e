"""Whether grammars accept texts, by llguidance with the tiny model's vocabulary."""

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

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


@cache
def _vocabulary() -> LLTokenizer:
    return grammar_tokenizer(tiny_tokenizer())


def new_matcher(grammar: str) -> LLMatcher:
    matcher = LLMatcher(_vocabulary(), grammar, log_level=0, limits=parser_limits())
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(grammar: str, text: str) -> bool:
    """Return True if the grammar allows each token of the text, and its end after it."""
    return accepts_tokens(grammar, tiny_tokenizer().encode(text, add_special_tokens=False, parse_control_tokens=False))


def accepts_tokens(grammar: str, token_ids: list[int]) -> bool:
    matcher = new_matcher(grammar)
    for token_id in token_ids:
        if not _allows(matcher, token_id):
            return False
        assert matcher.consume_token(token_id), matcher.get_error()
    return matcher.is_accepting()


def _allows(matcher: LLMatcher, token_id: int) -> bool:
    # The mask, not only the parser: it is what a worker applies.
    mask = matcher.compute_bitmask()
    assert not matcher.is_error(), matcher.get_error()
    return bool(mask[token_id // 8] >> token_id % 8 & 1)


def rule_accepts(rule: TextRule, text: str) -> bool:
    return accepts(text_constraint(rule, tiny_tokenizer()).grammar, text)


def refused(rule: TextRule, texts: list[str]) -> Iterator[str]:
    """Yield the texts that the rule refuses."""
    for text in texts:
        if not rule_accepts(rule, text):
            yield text
