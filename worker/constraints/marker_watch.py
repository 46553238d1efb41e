"""The search for markers in generated tokens, by token and by bytes across the borders of tokens."""

from collections.abc import Iterable
from typing import NamedTuple

from pagoda.wire.constraint import Marker


class Found(NamedTuple):
    """A marker that has been completed by the last token."""

    token_ids: tuple[int, ...]
    """Tokens that cover the marker."""
    rest: bytes
    """Bytes of the last of them after the marker."""


class MarkerWatch:
    def __init__(self, markers: Iterable[Marker]) -> None:
        markers = tuple(markers)
        self._marker_ids = frozenset(marker.token_id for marker in markers if marker.token_id is not None)
        self._texts = tuple(marker.text for marker in markers if marker.text)
        self._longest = max(map(len, self._texts), default=0)
        self._tokens: list[tuple[int, int]] = []
        """Latest tokens in which a marker may have begun, each with its number of bytes."""
        self._written = b""
        """Bytes of these tokens."""

    def reset(self) -> None:
        """Forget all tokens."""
        self._tokens.clear()
        self._written = b""

    def see(self, token_id: int, spelled: bytes) -> list[Found]:
        """Take the next token and return the markers that it completes, the one that ends first first."""
        num_before = len(self._written)
        self._tokens.append((token_id, len(spelled)))
        self._written += spelled
        if token_id in self._marker_ids:
            found = [Found((token_id,), b"")]
        else:
            spans = sorted((end, start) for text in self._texts for start, end in self._spans(text, num_before))
            found = [Found(self._tokens_from(start), self._written[end:]) for end, start in spans]
        self._forget_old()
        return found

    def begun_part(self, text: bytes) -> bytes:
        """Return the longest beginning of `text`, shorter than the text, with which the tokens end."""
        lengths = range(min(len(text) - 1, len(self._written)), 0, -1)
        return next((text[:length] for length in lengths if self._written.endswith(text[:length])), b"")

    def _spans(self, text: bytes, num_before: int) -> Iterable[tuple[int, int]]:
        start = self._written.find(text, max(0, num_before - len(text) + 1))
        while start >= 0:
            yield start, start + len(text)
            start = self._written.find(text, start + 1)

    def _tokens_from(self, position: int) -> tuple[int, ...]:
        """Return the tokens from the one with the byte at `position` on."""
        end = 0
        for place, (_, length) in enumerate(self._tokens):
            end += length
            if position < end:
                return tuple(token_id for token_id, _ in self._tokens[place:])
        return ()

    def _forget_old(self) -> None:
        while self._tokens and len(self._written) - self._tokens[0][1] >= self._longest - 1:
            self._written = self._written[self._tokens[0][1] :]
            del self._tokens[0]
