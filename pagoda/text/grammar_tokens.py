"""The vocabulary of a model in the form that llguidance needs: the bytes of each token.

It is made from bytes, not from a file of the tokenizers library, since Pagoda's encoders know no control tokens. A control token
is 0xFF and its name, which no text contains: a grammar names it by id, as `<[151657]>`.
"""

from llguidance import LLTokenizer, TokenizerWrapper

from pagoda.text.tokenizer import Tokenizer

CONTROL_PREFIX = b"\xff"


class _Vocabulary:
    """The tokenizer as llguidance's wrapper reads it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bos_token_id = tokenizer.bos_token_id
        self.eos_token_id = tokenizer.eos_token_ids[0] if tokenizer.eos_token_ids else 0
        texts = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = [token_id for token_id, text in enumerate(texts) if not text]
        self.tokens = [
            text or CONTROL_PREFIX + (tokenizer.bytes_with_special(token_id) or b"%d" % token_id)
            for token_id, text in enumerate(texts)
        ]

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False, parse_control_tokens=False)


def grammar_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return the vocabulary for llguidance, with all tokens that end a sequence. It takes 0.1 to 1 s of processor time."""
    vocabulary = TokenizerWrapper(_Vocabulary(tokenizer))
    return LLTokenizer(vocabulary, n_vocab=tokenizer.vocab_size, eos_token=list(tokenizer.eos_token_ids))
