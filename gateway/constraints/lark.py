"""Parts of grammars in llguidance's Lark syntax."""

import json
import re
from collections.abc import Mapping, Sequence

ANY_TEXT = "/(?s:.*)/"


def literal(text: str) -> str:
    """Return the text as a literal of a Lark rule."""
    return json.dumps(text)


def one_of(expressions: Sequence[str]) -> str:
    """Return an expression for one of the expressions."""
    return expressions[0] if len(expressions) == 1 else f"({' | '.join(expressions)})"


def literals(text: str, control_tokens: Mapping[str, int]) -> str:
    """Return the text as a sequence of literals. Names of control tokens in it are those tokens, which have no text."""
    names = [name for name in sorted(control_tokens, key=len, reverse=True) if name and name in text]
    if not names:
        return literal(text) if text else ""
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
    return " ".join(
        f"<[{control_tokens[part]}]>" if part in control_tokens else literal(part) for part in parts if part
    )
