"""A limit for texts: one that cannot fit is refused or cut before tokenizing it costs much time and memory.

The limit is exact: a text of at most `max_tokens` tokens is never refused, and the kept tokens are those of the whole text.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

PIECE_CHARACTERS = 1 << 16
"""Size of a piece of text. Tokenizing one takes about 0.05 s of processor time and, temporarily, 30 MB."""


class Keep(Enum):
    """The tokens to keep of a text that is too long."""

    ALL = auto()
    """All tokens, so that a text that is too long is refused."""
    FIRST = auto()
    LAST = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBound:
    """The limit of a prompt."""

    max_tokens: int
    keep: Keep = Keep.ALL

    def trimmed(self, ids: list[int]) -> list[int]:
        """Return the ids that may be kept of a prompt that begins with `ids`. Raises TextTooLongError."""
        if len(ids) <= 2 * self.max_tokens:
            return ids
        if self.keep is Keep.ALL:
            raise TextTooLongError(self.max_tokens)
        return ids[: 2 * self.max_tokens] if self.keep is Keep.FIRST else ids[-2 * self.max_tokens :]


class TextTooLongError(ValueError):
    """The text has more than `max_tokens` tokens."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(f"the text has more than {max_tokens} tokens")
        self.max_tokens = max_tokens


def bounded_text(text: str, bound: PromptBound, count_tokens: Callable[[str], int], *, longest_token: int) -> str:
    """Return the part of `text` that contains the tokens to keep. Raises TextTooLongError.

    `longest_token` is in characters. A long text is tokenized in pieces and counted. Because a cut changes the tokens next to it,
    a text is refused or cut only if it has a quarter more tokens than allowed.
    """
    if len(text.encode()) <= max(PIECE_CHARACTERS, 4 * bound.max_tokens):
        return text  # short enough to be tokenized as a whole
    # A normalizer may join up to three characters into one.
    if bound.keep is Keep.ALL and len(text) > 4 * longest_token * bound.max_tokens:
        raise TextTooLongError(bound.max_tokens)
    num_tokens = num_characters = 0
    for piece in _pieces(text, from_end=bound.keep is Keep.LAST):
        num_tokens += count_tokens(piece)
        num_characters += len(piece)
        if num_tokens > bound.max_tokens * 5 // 4 + PIECE_CHARACTERS // 16:
            if bound.keep is Keep.ALL:
                raise TextTooLongError(bound.max_tokens)
            return text[:num_characters] if bound.keep is Keep.FIRST else text[-num_characters:]
    return text


def _pieces(text: str, *, from_end: bool) -> Iterator[str]:
    starts = range(0, len(text), PIECE_CHARACTERS)
    if not from_end:
        yield from (text[start : start + PIECE_CHARACTERS] for start in starts)
    else:
        yield from (text[max(0, len(text) - start - PIECE_CHARACTERS) : len(text) - start] for start in starts)
