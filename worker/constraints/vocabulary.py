"""The vocabulary of a model as constraints need it: the bytes of tokens, the tokens that end a sequence, and llguidance's form."""

from collections.abc import Callable
from functools import cache, cached_property
from typing import TYPE_CHECKING

from pagoda.models.model import Model

if TYPE_CHECKING:
    # Imported with the first constraint: a worker without one needs neither a tokenizer nor llguidance.
    from llguidance import LLTokenizer

    from pagoda.text.tokenizer import Tokenizer

LoadVocabulary = Callable[[], "Vocabulary"]

_IN_JSON_STRINGS = r'[^"\\\x00-\x1F\x7F]'
SLICES = (
    r"[\x20\x0A\x0D\x09]+",
    *(f"{_IN_JSON_STRINGS}{{1,{length}}}" for length in (4, 8, 16, 30)),
    f"{_IN_JSON_STRINGS}+",
)
"""Texts of tokens that a mask mostly takes or leaves together: whitespace, and what a JSON string may still have.

With the lengths 4, 8 and 16, which the library's slices lack, a mask takes a tenth of the time in strings that have a maximum
length, and a vocabulary of 150,000 tokens takes 15 MB more.
"""


class Vocabulary:
    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self.spelling: Callable[[int], bytes] = tokenizer.bytes_with_special
        self.size = tokenizer.vocab_size
        self.eos_token_ids = tuple(tokenizer.eos_token_ids)
        self.opening_tokens = cache(self._opening_tokens)
        self.crossing_tokens = cache(self._crossing_tokens)

    @cached_property
    def grammar_tokenizer(self) -> "LLTokenizer":
        """The vocabulary for llguidance. To make it takes 0.1 to 1 s of processor time."""
        from pagoda.text.grammar_tokens import grammar_tokenizer

        return grammar_tokenizer(self._tokenizer, SLICES)

    def _opening_tokens(self, text: bytes, written: bytes) -> tuple[int, ...]:
        """Return the tokens that continue a text of which `written` exists, or complete it. Whitespace may precede the text."""
        missing = text[len(written) :]
        return self._tokens(lambda spelled: _continues(missing, spelled if written else spelled.lstrip()))

    def _crossing_tokens(self, text: bytes, written: bytes) -> tuple[int, ...]:
        """Return the tokens that complete a text of which `written` exists, and hold more than whitespace after it."""

        def crosses(spelled: bytes) -> bool:
            _, found, rest = (written + spelled).partition(text)
            return bool(found and rest.strip())

        return self._tokens(crosses)

    def _tokens(self, matches: Callable[[bytes], bool]) -> tuple[int, ...]:
        return tuple(token_id for token_id in range(self.size) if matches(self.spelling(token_id)))


def load_vocabulary(model: Model) -> Vocabulary:
    """Return the vocabulary in the model's files. Reading it takes about as long as making llguidance's form."""
    from pagoda.text.tokenizer import Tokenizer

    return Vocabulary(Tokenizer.load(model))


def _continues(missing: bytes, spelled: bytes) -> bool:
    return bool(spelled) and (missing.startswith(spelled) or spelled.startswith(missing))
