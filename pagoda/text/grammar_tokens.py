"""The vocabulary of a model in the form that llguidance needs, and the limits of a grammar.

It is made from bytes, not from a file of the tokenizers library, since Pagoda's encoders know no control tokens.
"""

from collections.abc import Callable, Sequence
from functools import partial

from llguidance import LLParserLimits, LLTokenizer, TokenizerWrapper

from pagoda.text.token_table import TokenTable
from pagoda.text.tokenizer import Tokenizer

Encode = Callable[[str], list[int]]
_GUARD = "\x02"
"""A character that joins no token. The space that some encoders put before a text goes before it."""


class _Vocabulary:
    """The tokenizer as llguidance's wrapper reads it."""

    def __init__(self, table: TokenTable, encode: Encode | None) -> None:
        self._encode = encode
        self.by_bytes: LLTokenizer | None = None
        """The finished vocabulary, which cuts a text into tokens without an encoder."""
        self.bos_token_id = table.bos_token_id
        self.eos_token_id = table.eos_token_ids[0] if table.eos_token_ids else 0
        self.special_token_ids = list(table.control_token_ids)
        self.tokens = list(table.tokens)

    def __call__(self, text: str) -> list[int]:
        """Return tokens with exactly these bytes.

        llguidance takes the first of them as the only token that may come next where a grammar leaves no choice. With other
        bytes, as an encoder gives that adds a space or composes characters, no token would be left.
        """
        if self._encode is not None and (ids := self._exactly(text, self._encode)) is not None:
            return ids
        return self.by_bytes.greedy_tokenize(text) if self.by_bytes else []

    def _exactly(self, text: str, encode: Encode) -> list[int] | None:
        """Return the encoder's tokens, or None if they have other bytes."""
        for prefix in ("", _GUARD):
            ids = encode(prefix + text)
            spelled = b""
            while prefix and ids and _GUARD.encode() not in spelled:
                spelled += self.tokens[ids.pop(0)]
            if b"".join(map(self.tokens.__getitem__, ids)) == text.encode():
                return ids
        return None


def table_tokenizer(
    table: TokenTable, encode: Encode | None = None, slices: Sequence[str] | None = None
) -> LLTokenizer:
    """Return the vocabulary for llguidance, with all tokens that end a sequence. It takes 0.1 to 1 s of processor time.

    Without `encode`, a text that a grammar forces becomes tokens that a model would perhaps not write. `slices` are regular
    expressions for texts of tokens that a mask mostly takes or leaves together; None for the library's.
    """
    vocabulary = _Vocabulary(table, encode)
    wrapper = TokenizerWrapper(vocabulary)
    made = LLTokenizer(
        wrapper,
        n_vocab=len(table.tokens),
        eos_token=list(table.eos_token_ids),
        slices=None if slices is None else list(slices),
    )
    vocabulary.by_bytes = made
    return made


def grammar_tokenizer(tokenizer: Tokenizer, slices: Sequence[str] | None = None) -> LLTokenizer:
    """Return the model's vocabulary for llguidance."""
    encode = partial(tokenizer.encode, add_special_tokens=False, parse_control_tokens=False)
    return table_tokenizer(TokenTable.of_tokenizer(tokenizer), encode, slices)


def parser_limits() -> LLParserLimits:
    """Return the limits of a grammar. The gateway's check and the workers use the same ones, so that no worker refuses a grammar.

    A state of the lexer takes 1 to 2 kB, so that no matcher can take more than 100 MB. An object with optional properties has four
    items in a row for each of them, and a mask takes about 1 ms for 20,000 items. The other values are the library's.
    """
    return LLParserLimits(
        max_lexer_states=50_000, max_items_in_row=20_000, step_max_items=100_000, verbose_errors=False
    )
