"""The search for stop strings in a text that arrives in pieces.

The stop string that is complete first wins. If several are complete at the same character, the longest wins.
So the result does not depend on how the text was cut.
"""

from collections.abc import Sequence


class StopMatcher:
    """A filter that passes text on until a stop string is complete.

    It holds back only text that may become a stop string: the longest suffix of the text that is a prefix of one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(dict.fromkeys(stops))
        self._first_characters = {stop[0] for stop in stops}
        self._max_held = max(map(len, stops), default=1) - 1
        self._held = ""
        self.matched: str | None = None

    def match_next(self, text: str) -> tuple[str, str | None]:
        """Return the text that is certain to precede any stop string, and the stop string if one is complete.

        After a match, return no more text.
        """
        if self.matched is not None:
            return "", self.matched
        if not self._held and self._first_characters.isdisjoint(text):
            return text, None  # most text, which then costs the same for any number of stop strings
        pending = self._held + text
        # `str.find` would search the held text again with each piece, which is slow for long stop strings.
        for end in range(len(self._held) + 1, len(pending) + 1):
            if pending.endswith(self._stops, 0, end):
                self.matched = max((stop for stop in self._stops if pending.endswith(stop, 0, end)), key=len)
                self._held = ""
                return pending[: end - len(self.matched)], self.matched
        start = self._find_held(pending)
        self._held = pending[start:]
        return pending[:start], None

    def release_held(self) -> str:
        """Return the text that is still held back, once no more text can complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _find_held(self, text: str) -> int:
        """Return where the text to hold back begins: the longest suffix that is a prefix of a stop string."""
        for start in range(max(0, len(text) - self._max_held), len(text)):
            if text[start] in self._first_characters:
                end = text[start:]
                for stop in self._stops:
                    if stop.startswith(end):
                        return start
        return len(text)
