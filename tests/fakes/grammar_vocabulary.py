"""Vocabularies for constraints: a small one with tokens of several bytes, and that of the tiny model."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint, Marker
from tests.fakes.paged_model import VOCAB_SIZE
from tests.fakes.tiny_model import CONTROL_TOKENS, IM_END
from worker.constraints.guides import Guides
from worker.constraints.vocabulary import Vocabulary

_WORDS = (b'{"', b'":', b'",', b'"}', b"true", b"null", b"<th", b"ink>", b"</", b"> ", b'>"', b"<call>", b"ab")
_TOKENS = (*(bytes([byte]) for byte in b'{}[]":, \n<>/=abcdefhiklnortu0123456.'), *_WORDS)
_CONTROL = (b"<think>", b"</think>", b"<end>", b"<stop>")
TEXTS = (*_TOKENS, *_CONTROL)
"""The bytes of each token, or its name."""
OPEN_ID, CLOSE_ID, END_ID, STOP_ID = range(len(_TOKENS), len(TEXTS))
END_IDS = (END_ID, STOP_ID)
THINK = Marker(text=b"<think>")
END_OF_THINK = Marker(text=b"</think>")
assert len(TEXTS) == VOCAB_SIZE, f"the paged model has {VOCAB_SIZE} tokens, not {len(TEXTS)}"


BYTES = (*(bytes([byte]) for byte in range(256)), *(name.encode() for name in CONTROL_TOKENS))
"""The bytes of each token of the tiny model, or its name."""


class GrammarTokenizer:
    """The part of a `pagoda.text.tokenizer.Tokenizer` that constraints use. A text is cut greedily."""

    bos_token_id = None

    def __init__(self, eos_token_ids: Sequence[int], texts: Sequence[bytes], num_control: int) -> None:
        """Create the tokenizer; the last `num_control` of the texts are names of control tokens."""
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab_size = len(texts)
        self._texts = texts
        self._num_plain = len(texts) - num_control

    def token_bytes(self, token_id: int) -> bytes:
        return self._texts[token_id] if token_id < self._num_plain else b""

    def bytes_with_special(self, token_id: int) -> bytes:
        return self._texts[token_id]

    def encode(self, text: str, **_: Any) -> list[int]:
        return cut(text.encode(), self._texts[: self._num_plain])


def cut(text: bytes, tokens: Sequence[bytes] = _TOKENS) -> list[int]:
    """Return the tokens of a text, the longest one first; none of them is a control token."""
    ids = []
    while text:
        ids.append(max((i for i, each in enumerate(tokens) if text.startswith(each)), key=lambda i: len(tokens[i])))
        text = text[len(tokens[ids[-1]]) :]
    return ids


def spell(token_ids: Sequence[int]) -> bytes:
    """Return the text of the tokens, with the names of control tokens."""
    return b"".join(TEXTS[token_id] for token_id in token_ids)


def make_vocabulary(eos_token_ids: Sequence[int] = END_IDS) -> Vocabulary:
    return Vocabulary(cast(Tokenizer, GrammarTokenizer(eos_token_ids, TEXTS, len(_CONTROL))))


def make_guides(eos_token_ids: Sequence[int] = END_IDS) -> Guides:
    return Guides(lambda: make_vocabulary(eos_token_ids), VOCAB_SIZE, eos_token_ids)


def make_byte_guides() -> Guides:
    """Return guides for the vocabulary of the tiny model (tiny_model.py)."""
    tokenizer = GrammarTokenizer((IM_END,), BYTES, len(CONTROL_TOKENS))
    return Guides(lambda: Vocabulary(cast(Tokenizer, tokenizer)), len(BYTES), tokenizer.eos_token_ids)


def constrained(grammar: str = "", **fields: Any) -> Constraint:
    """Return a constraint with this grammar in Lark."""
    return Constraint(grammar=grammar, digest=hashlib.sha256(grammar.encode()).digest() if grammar else b"", **fields)
