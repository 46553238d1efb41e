"""Text rules that are regular expressions, in the syntax of Rust's crate `regex`, which Python's and PCRE's mostly share."""

import re

from gateway.constraints.text_rule import TextRule, refuse_long
from gateway.errors import InvalidRequestError

_TO_ESCAPE = re.compile(r"(\\.)|[/\n\r]", re.DOTALL)
_ESCAPES = {"/": r"\/", "\n": r"\n", "\r": r"\r", "\\\n": r"\n", "\\\r": r"\r"}


def regex_rule(regex: str, field: str) -> TextRule:
    """Return the rule for texts that match the expression as a whole."""
    if not regex:
        raise InvalidRequestError(f"{field}: must not be empty", param=field)
    refuse_long(regex, field)
    return TextRule(lark=f"start: TEXT\nTEXT: {regex_terminal(regex)}", field=field)


def regex_terminal(regex: str) -> str:
    r"""Return the expression between slashes. It matches the whole text, so Python's anchors \A and \Z change nothing."""
    regex = regex.removeprefix(r"\A")
    regex = regex[:-2] if regex.endswith((r"\z", r"\Z")) and not regex.endswith((r"\\z", r"\\Z")) else regex
    # A slash or a line break would end it.
    escaped = _TO_ESCAPE.sub(lambda found: _ESCAPES.get(found[0], found[0]), regex)
    return f"/{escaped}/"
