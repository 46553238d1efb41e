"""Token ids to text as they come, one instance per sequence.

A token may end inside a character: those bytes are held back until the character is whole, or can no longer become one, and
then they are U+FFFD. Knows nothing about stop strings.
"""

import codecs
from collections.abc import Sequence

from gateway.tokenizer import Tokenizer


class Detokenizer:
    """What the pushes and the flush return, joined, is `Tokenizer.decode` of all the tokens."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._token_bytes = tokenizer.token_bytes if skip_special_tokens else tokenizer.bytes_with_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_ids: Sequence[int]) -> str:
        return self._decoder.decode(b"".join(map(self._token_bytes, token_ids)))

    def flush(self) -> str:
        """The sequence has ended: what is held back is no character."""
        return self._decoder.decode(b"", final=True)
