"""The bytes of each token of a vocabulary, as grammars need them.

A control token is 0xFF and its name, which no text contains: a grammar names it by id, as `<[151657]>`.
"""

import hashlib
from dataclasses import dataclass

from pagoda.text.tokenizer import Tokenizer

CONTROL_PREFIX = b"\xff"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTable:
    """A vocabulary in bytes."""

    tokens: tuple[bytes, ...]
    control_token_ids: tuple[int, ...]
    """Ids of tokens without text."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer) -> "TokenTable":
        """Return the table of a model's vocabulary."""
        texts = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        return cls(
            tokens=tuple(
                text or CONTROL_PREFIX + (tokenizer.bytes_with_special(token_id) or b"%d" % token_id)
                for token_id, text in enumerate(texts)
            ),
            control_token_ids=tuple(token_id for token_id, text in enumerate(texts) if not text),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_ids=tokenizer.eos_token_ids,
        )

    def digest(self) -> bytes:
        """Return the sha256 of the table."""
        digest = hashlib.sha256(repr((self.bos_token_id, self.eos_token_ids, self.control_token_ids)).encode())
        for token in self.tokens:
            digest.update(b"%d:" % len(token) + token)
        return digest.digest()
