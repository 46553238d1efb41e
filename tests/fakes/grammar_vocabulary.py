"""A small vocabulary for constraints, with tokens of one and several bytes, two tokens that end a sequence, and its constraints."""

import hashlib
from collections.abc import Sequence
from typing import Any, cast

from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint, Marker
from tests.fakes.paged_model import VOCAB_SIZE
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


class GrammarTokenizer:
    """The part of a `pagoda.text.tokenizer.Tokenizer` that constraints use. A text is cut greedily."""

    bos_token_id = None
    vocab_size = VOCAB_SIZE

    def __init__(self, eos_token_ids: Sequence[int] = END_IDS) -> None:
        self.eos_token_ids = tuple(eos_token_ids)

    def token_bytes(self, token_id: int) -> bytes:
        return TEXTS[token_id] if token_id < len(_TOKENS) else b""

    def bytes_with_special(self, token_id: int) -> bytes:
        return TEXTS[token_id]

    def encode(self, text: str, **_: Any) -> list[int]:
        return cut(text.encode())


def cut(text: bytes) -> list[int]:
    """Return the tokens of a text, the longest one first; none of them is a control token."""
    ids = []
    while text:
        ids.append(max((i for i, each in enumerate(_TOKENS) if text.startswith(each)), key=lambda i: len(TEXTS[i])))
        text = text[len(TEXTS[ids[-1]]) :]
    return ids


def spell(token_ids: Sequence[int]) -> bytes:
    """Return the text of the tokens, with the names of control tokens."""
    return b"".join(TEXTS[token_id] for token_id in token_ids)


def make_vocabulary(eos_token_ids: Sequence[int] = END_IDS) -> Vocabulary:
    return Vocabulary(cast(Tokenizer, GrammarTokenizer(eos_token_ids)))


def make_guides(eos_token_ids: Sequence[int] = END_IDS) -> Guides:
    return Guides(lambda: make_vocabulary(eos_token_ids), VOCAB_SIZE, eos_token_ids)


def constrained(grammar: str = "", **fields: Any) -> Constraint:
    """Return a constraint with this grammar in Lark."""
    return Constraint(grammar=grammar, digest=hashlib.sha256(grammar.encode()).digest() if grammar else b"", **fields)
