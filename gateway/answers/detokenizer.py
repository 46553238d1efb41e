"""Token ids to text as they come, one instance per sequence.

A token may end inside a character: those bytes are held back until the character is whole, or can no longer become one, and
then they are U+FFFD.
"""

import codecs
from collections.abc import Sequence

from pagoda.text.tokenizer import Tokenizer


class Detokenizer:
    """What the pushes and the flush return, joined, is `Tokenizer.decode` of all the tokens."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._token_bytes = tokenizer.token_bytes if skip_special_tokens else tokenizer.bytes_with_special
        self._held = b""
        """The beginning of a character that is not whole yet."""

    def decode_next(self, token_ids: Sequence[int]) -> str:
        data = self._held + b"".join(map(self._token_bytes, token_ids))
        text, num_decoded = codecs.utf_8_decode(data, "replace", False)
        self._held = data[num_decoded:]
        return text

    def decode_rest(self) -> str:
        """Return what is held back at the sequence's end, which is no character."""
        held, self._held = self._held, b""
        return held.decode("utf-8", "replace")
