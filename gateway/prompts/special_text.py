"""The distinction between special tokens that a chat template writes and those that a message contains.

Before rendering, each special token in a message gets a mark inside, a character that occurs nowhere else. After rendering only
the template's own special tokens are intact, and the tokenizer removes the marks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

PRIVATE_CHARACTERS = range(0xE000, 0xF900)


class ControlTokens(Protocol):
    """The part of a tokenizer that SpecialText uses."""

    special_tokens: Mapping[str, int]

    @property
    def hides_control_tokens(self) -> bool: ...

    def control_spans(self, text: str) -> list[tuple[int, int, int]]: ...


class SpecialText:
    """The search for special tokens in messages, which marks each of them."""

    def __init__(self, tokenizer: ControlTokens) -> None:
        special_tokens = tokenizer.special_tokens
        self._tokenizer = tokenizer
        self._longest = max(map(len, special_tokens), default=0)
        self._beginnings = {text[:length] for text in special_tokens for length in range(1, len(text))}
        # The longest comes first, because one special token may begin with another. Without any, nothing matches.
        alternatives = map(re.escape, sorted(special_tokens, key=len, reverse=True))
        self._any = re.compile("|".join(alternatives) or r"(?!)")

    def mark_typed(self, messages: Sequence[Mapping[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Return the messages with `mark` inside each special token that they contain, in any field."""
        marked: list[dict[str, Any]] = self._mark_inside(messages, mark)
        return [{**message, "content": self._mark_end(message["content"], mark)} for message in marked]

    def _mark_inside(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            marked = self._any.sub(lambda match: match[0][0] + mark + match[0][1:], value)
            return self._mark_hidden(marked, mark) if self._tokenizer.hides_control_tokens else marked
        if isinstance(value, Mapping):
            return {self._mark_inside(key, mark): self._mark_inside(item, mark) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self._mark_inside(item, mark) for item in value]
        return value

    def _mark_hidden(self, text: str, mark: str) -> str:
        """Mark the control tokens that only the tokenizer finds, such as one written in other letters."""
        pieces, position = [], 0
        for start, end, _ in self._tokenizer.control_spans(text):
            inside = start + len(text[start:end]) - len(text[start:end].lstrip()) + 1
            if text[inside : inside + 1] != mark:
                pieces += [text[position:inside], mark]
                position = inside
        return "".join([*pieces, text[position:]])

    def _mark_end(self, content: str, mark: str) -> str:
        """Add the mark to content that ends with the beginning of a special token.

        Templates may join messages, so that the next message could complete the token.
        """
        ends = (content[-length:] for length in range(1, min(self._longest, len(content) + 1)))
        return content + mark if any(end in self._beginnings for end in ends) else content


def unused_character(*values: Any) -> str | None:
    """Return a private Unicode character that no text in the values contains, or None if all are used."""
    used = set().union(*_strings(values))
    return next((chr(code) for code in PRIVATE_CHARACTERS if chr(code) not in used), None)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from chain.from_iterable(map(_strings, chain(value.keys(), value.values())))
    elif isinstance(value, Sequence):
        yield from chain.from_iterable(map(_strings, value))
