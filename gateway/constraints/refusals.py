"""The reasons why a grammar is refused, in words for clients instead of llguidance's."""

import re
from typing import Any

from gateway.constraints.schema_walk import as_place, place_of, subschemas

_POSITION = re.compile(r"^(?:at )?\d+\(\d+\): ")
_SOURCE_LINES = re.compile(r"\n *\d+ \| .*", re.DOTALL)
_UNIMPLEMENTED = re.compile(r"Unimplemented keys: \[(.*?)\]", re.DOTALL)
_REMOTE = re.compile(r"Resource '(.*?)' is not present in a registry")
_NO_POINTER = re.compile(r"Pointer '(.*?)' does not exist")
_LOOK_AROUND = re.compile(r"\(\?(?:=|!|<=|<!)")
_FORMAT = re.compile(r"Unknown format: (.*)")


def readable_reason(reason: str) -> str:
    """Return the reason without llguidance's positions and excerpts."""
    reason = _POSITION.sub("", reason.removesuffix("\n<non-verbose/>"))
    reason = _SOURCE_LINES.sub("", reason).strip()
    reason = reason.removeprefix("failed to compile JSON schema: ")
    if found := _UNIMPLEMENTED.search(reason):
        keywords = " and ".join(f"'{name}'" for name in re.findall(r'"(.*?)"', found[1]))
        return f"{keywords} is not supported" if " and " not in keywords else f"{keywords} are not supported"
    if found := _REMOTE.search(reason):
        return f"'$ref' to {found[1]!r} is not supported: a schema may refer only to its own parts"
    if found := _NO_POINTER.search(reason):
        return f"'$ref' to '#{found[1]}' leads nowhere"
    if found := _FORMAT.search(reason):
        return f"the format {found[1]!r} is not supported"
    if reason.startswith("Failed to generate regex for"):
        return "'minimum' or 'maximum' is too large"
    if reason.startswith("oneOf constraints are not supported"):
        return "'oneOf' is supported only if its branches certainly exclude each other; use 'anyOf'"
    if reason.startswith("Unsatisfiable schema: "):
        return f"no value can satisfy it: {reason.removeprefix('Unsatisfiable schema: ')}"
    if "NoExtensionBias" in reason:
        return "no text can satisfy it"
    if "look-ahead and look-behind" in reason or "lookarounds not supported" in reason:
        # A word boundary, or an anchor inside the expression, is one too.
        return "look-around in a regular expression is not supported"
    if "too many expressions" in reason or "ParserTooComplex" in reason or "LexerTooComplex" in reason:
        return f"too complex: {reason}"
    return " ".join(reason.split())


def with_place(reason: str, schema: Any) -> str:
    """Return the reason with the place in the schema of the keyword that it names first, if it can be found."""
    if found := re.match(r"the format '(.*)' is not", reason):
        place = place_of(schema, "format", found[1])
    elif reason.startswith("look-around"):
        place = next(
            (as_place(path) for path, inner in subschemas(schema) if _LOOK_AROUND.search(str(inner.get("pattern")))),
            None,
        )
    elif found := re.match(r"'([^']+)'", reason):
        place = place_of(schema, found[1])
    else:
        return reason
    return reason if place is None else f"{reason} (at {place})"
