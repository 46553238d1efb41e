"""Conversion of token ids to text while they arrive.

A token may end inside a character. Its last bytes are then held back until the character is complete. Bytes that cannot become a
character turn into U+FFFD.
"""

import codecs
from collections.abc import Sequence

from pagoda.text.tokenizer import Tokenizer


class Detokenizer:
    """A detokenizer for one sequence. Its outputs, joined, equal `Tokenizer.decode` of all the tokens."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True) -> None:
        self._token_bytes = tokenizer.token_bytes if skip_special_tokens else tokenizer.bytes_with_special
        self._held = b""
        """Beginning of a character that is not complete yet."""

    def decode_next(self, token_ids: Sequence[int]) -> str:
        """Return the complete characters after these tokens."""
        data = self._held + b"".join(map(self._token_bytes, token_ids))
        text, num_decoded = codecs.utf_8_decode(data, "replace", False)
        self._held = data[num_decoded:]
        return text

    def decode_rest(self) -> str:
        """Return the bytes that are held back at the sequence's end, as U+FFFD: they are no complete character."""
        held, self._held = self._held, b""
        return held.decode("utf-8", "replace")
