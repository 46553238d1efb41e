"""The vocabulary of a model in the form that llguidance needs: the bytes of each token.

It is made from bytes, not from a file of the tokenizers library, since Pagoda's encoders know no control tokens. A control token
is 0xFF and its name, which no text contains: a grammar names it by id, as `<[151657]>`.
"""

from llguidance import LLParserLimits, LLTokenizer, TokenizerWrapper

from pagoda.text.tokenizer import Tokenizer

CONTROL_PREFIX = b"\xff"
_GUARD = "\x02"
"""A character that joins no token. The space that some encoders put before a text goes before it."""


class _Vocabulary:
    """The tokenizer as llguidance's wrapper reads it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.by_bytes: LLTokenizer | None = None
        """The finished vocabulary, which cuts a text into tokens without an encoder."""
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = tokenizer.eos_token_ids[0] if tokenizer.eos_token_ids else 0
        texts = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = [token_id for token_id, text in enumerate(texts) if not text]
        self.tokens = [
            text or CONTROL_PREFIX + (tokenizer.bytes_with_special(token_id) or b"%d" % token_id)
            for token_id, text in enumerate(texts)
        ]

    def __call__(self, text: str) -> list[int]:
        """Return tokens with exactly these bytes.

        llguidance takes the first of them as the only token that may come next where a grammar leaves no choice. With other
        bytes, as an encoder gives that adds a space or composes characters, no token would be left.
        """
        wanted = text.encode()
        for prefix in ("", _GUARD):
            ids = self._encode(prefix + text)
            spelled = b""
            while prefix and ids and _GUARD.encode() not in spelled:
                spelled += self.tokens[ids.pop(0)]
            if b"".join(map(self.tokens.__getitem__, ids)) == wanted:
                return ids
        return self.by_bytes.greedy_tokenize(text) if self.by_bytes else []

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, parse_control_tokens=False)


def grammar_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the vocabulary for llguidance, with all tokens that end a sequence. It takes 0.1 to 1 s of processor time."""
    vocabulary = _Vocabulary(tokenizer)
    made = LLTokenizer(
        TokenizerWrapper(vocabulary), n_vocab=tokenizer.vocab_size, eos_token=list(tokenizer.eos_token_ids)
    )
    vocabulary.by_bytes = made
    return made


def parser_limits() -> LLParserLimits:
    """Return the limits of a grammar. The gateway's check and the workers use the same ones, so that no worker refuses a grammar.

    A state of the lexer takes 1 to 2 kB, so that no matcher can take more than 100 MB. The other values are the library's.
    """
    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)
