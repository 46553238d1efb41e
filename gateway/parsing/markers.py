"""The search for markers in a text that arrives in pieces. The marker that is complete first wins, however the text is cut."""

import re
from collections.abc import Iterable


class MarkerSet:
    """Markers to search for at the same time. If several are complete at the same character, the longest wins."""

    def __init__(self, markers: Iterable[str]) -> None:
        unique = {marker for marker in markers if marker}
        # A marker with another one inside can never be complete first.
        reachable = {marker for marker in unique if not any(_ends_inside(other, marker) for other in unique)}
        self._markers = tuple(sorted(reachable, key=lambda marker: (-len(marker), marker)))
        self._pattern = re.compile("|".join(map(re.escape, self._markers))) if reachable else None
        self.first_characters = frozenset(marker[0] for marker in reachable)
        self._max_held = max(map(len, reachable), default=1) - 1

    def find(self, text: str) -> tuple[int, str | None]:
        """Return the length of the text that is certain to precede any marker, and the marker after it if one is complete."""
        if self._pattern is None:
            return len(text), None
        if found := self._pattern.search(text):
            return found.start(), found.group()
        for start in range(max(0, len(text) - self._max_held), len(text)):
            if text[start] in self.first_characters:
                end = text[start:]
                if any(marker.startswith(end) for marker in self._markers):
                    return start, None
        return len(text), None


def _ends_inside(inner: str, outer: str) -> bool:
    """Return True if `inner` is complete in `outer` before `outer` itself is."""
    return inner != outer and inner in outer[:-1]
