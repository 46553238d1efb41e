"""Messages about values that pydantic rejected. Settings and the command's options use them."""

from difflib import get_close_matches
from typing import Any

_WANTED = {
    "int": "must be an integer",
    "float": "must be a number",
    "bool": "must be true or false",
    "byte_size": "must be a size such as 512MiB",
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
}
_BOUNDS = {
    "greater_than_equal": ("must be at least", "ge"),
    "greater_than": ("must be above", "gt"),
    "less_than_equal": ("must be at most", "le"),
    "less_than": ("must be below", "lt"),
}


def describe_problem(problem: Any, *, is_secret: bool = False) -> str:
    """Return the message of one of pydantic's errors, such as `must be at most 65535 (got '99999')`, without a secret value."""
    kind = problem["type"]
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        wanted = f"{words} {problem['ctx'][name]:g}"
    elif kind == "string_pattern_mismatch":
        wanted = f"must match {problem['ctx']['pattern']}"
    else:
        known = (words for start, words in _WANTED.items() if kind.startswith(start))
        wanted = next(known, str(problem["msg"]).replace("Input should be", "must be"))
    return wanted if is_secret or kind == "missing" else f"{wanted} (got {problem['input']!r})"


def suggest(name: str, known: set[str]) -> str:
    """Return `; did you mean X?` for the known name that is most like this one. If none is, return the list of all."""
    close = get_close_matches(name, known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else f" (known: {', '.join(sorted(known))})"
