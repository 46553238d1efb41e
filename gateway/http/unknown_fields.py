"""The fields of a request that its API does not have: found in the body by their paths, and named in a response header."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

MAX_NAMED = 16
MAX_NAME_CHARACTERS = 64
"""Of each name, so that the header stays within what proxies let through, whatever a client sends."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


class SchemaShape:
    """The names that a body of one kind may have, and the shapes of the bodies inside it, by the field they are in."""

    def __init__(self, known: frozenset[str], nested: Mapping[str, "SchemaShape"]) -> None:
        self._known = known
        self._nested = nested

    def unknown(self, body: Mapping[str, Any], path: str = "") -> Iterator[str]:
        """The paths of unknown fields, such as `messages.0.timestamp`, as they are found."""
        for name in body:
            if name not in self._known:
                yield f"{path}{_named(name)}"
        for name, shape in self._nested.items():
            match body.get(name):
                case dict() as inner:
                    yield from shape.unknown(inner, f"{path}{name}.")
                case list() as several:
                    for index, inner in enumerate(several):
                        if isinstance(inner, dict):
                            yield from shape.unknown(inner, f"{path}{name}.{index}.")


def first_unknown(shape: SchemaShape, body: Mapping[str, Any]) -> tuple[str, ...]:
    """At most MAX_NAMED paths, and `...` behind them where there are more."""
    found = tuple(islice(shape.unknown(body), MAX_NAMED + 1))
    return found if len(found) <= MAX_NAMED else (*found[:MAX_NAMED], "...")


def _named(name: str) -> str:
    """What may stand in a header: ASCII without separators, and not long."""
    safe = _UNSAFE.sub("?", name[: MAX_NAME_CHARACTERS + 1])
    if len(safe) > MAX_NAME_CHARACTERS:
        return f"{safe[: MAX_NAME_CHARACTERS - 3]}..."
    return safe or '""'
