"""Finds stop strings in a text that arrives in pieces, and lets no part of one through.

The stop string that is complete first wins; of several that are complete with the same character, the one that began first.
So the result does not depend on how the text was cut.
"""

from collections.abc import Sequence
from functools import lru_cache


class StopMatcher:
    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self._prefixes = [_PrefixMatcher(stop) for stop in dict.fromkeys(stops)]
        self._first_characters = {stop[0] for stop in stops}
        self._held = ""
        self.matched: str | None = None

    def match_next(self, text: str) -> tuple[str, str | None]:
        """Return the text that is certain to stand before any stop string, and the stop string if one is complete.

        Once there is a match, nothing more comes out.
        """
        if not self._prefixes:
            return text, None
        if self.matched is not None:
            return "", self.matched
        if not self._held and self._first_characters.isdisjoint(text):
            return text, None  # most text, which then costs the same however many stop strings there are
        pending = self._held + text
        for position, character in enumerate(text, start=len(self._held) + 1):
            if complete := [prefix.stop for prefix in self._prefixes if prefix.advance(character)]:
                self.matched = max(complete, key=len)
                self._held = ""
                return pending[: position - len(self.matched)], self.matched
        num_safe = len(pending) - max(prefix.num_matched for prefix in self._prefixes)
        self._held = pending[num_safe:]
        return pending[:num_safe], None

    def release_held(self) -> str:
        """Return what was held back at the text's end, which is no stop string."""
        held, self._held = self._held, ""
        return held


class _PrefixMatcher:
    """How much of one stop string the end of the text matches (Knuth, Morris and Pratt): constant work per character."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.num_matched = 0
        self._fallback = _fallbacks(stop)

    def advance(self, character: str) -> bool:
        """Return whether the stop string is complete with this character."""
        self.num_matched = _next_match(self.stop, self._fallback, self.num_matched, character)
        return self.num_matched == len(self.stop)


@lru_cache(maxsize=256)
def _fallbacks(stop: str) -> Sequence[int]:
    """Return, for each prefix length, the length of the longest shorter prefix that the prefix also ends in.

    Kept, because each sample of a request asks for the same.
    """
    fallback = [0, 0]
    for character in stop[1:]:
        fallback.append(_next_match(stop, fallback, fallback[-1], character))
    return fallback


def _next_match(stop: str, fallback: Sequence[int], num_matched: int, character: str) -> int:
    while num_matched and stop[num_matched] != character:
        num_matched = fallback[num_matched]
    return num_matched + (stop[num_matched] == character)
