"""The distinction between special tokens that a chat template writes and those that a message contains.

Before rendering, each special token in a message gets a mark inside, a character that occurs nowhere else. After rendering only
the template's own special tokens are intact, and the tokenizer removes the marks.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

PRIVATE_CHARACTERS = range(0xE000, 0xF900)
_WORD = re.compile(r"[A-Za-z_$]{1,32}")
_WORD_KEYS = frozenset({"role", "type"})
"""Keys whose values templates compare with words, such as `function` or `object`."""


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
        self._last_characters = {beginning[-1] for beginning in self._beginnings}
        # The longest comes first, because one special token may begin with another. Without any, nothing matches.
        alternatives = map(re.escape, sorted(special_tokens, key=len, reverse=True))
        self._any = re.compile("|".join(alternatives) or r"(?!)")

    def mark_typed(self, messages: Sequence[Mapping[str, Any]], mark: str) -> list[dict[str, Any]]:
        """Return the messages with `mark` inside each special token that they contain, in any field."""
        marked: list[dict[str, Any]] = self.mark_inside(messages, mark)
        return marked

    def mark_inside(self, value: Any, mark: str) -> Any:
        """Return the value with `mark` inside each special token, and after each text that ends with the beginning of one.

        Templates may join texts, so that the next one could complete the token. Words that templates look for stay as they are.
        """
        if isinstance(value, str):
            marked = self._any.sub(lambda match: match[0][0] + mark + match[0][1:], value)
            marked = self._mark_hidden(marked, mark) if self._tokenizer.hides_control_tokens else marked
            return self._mark_end(marked, mark)
        if isinstance(value, Mapping):
            return {self._mark_key(key, mark): self._mark_item(key, item, mark) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [self.mark_inside(item, mark) for item in value]
        return value

    def _mark_key(self, key: str, mark: str) -> str:
        return key if _WORD.fullmatch(key) else str(self.mark_inside(key, mark))

    def _mark_item(self, key: str, item: Any, mark: str) -> Any:
        is_word = key in _WORD_KEYS and isinstance(item, str) and _WORD.fullmatch(item)
        return item if is_word else self.mark_inside(item, mark)

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
        """Add the mark to a text that ends with the beginning of a special token."""
        if content[-1:] not in self._last_characters:
            return content
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
