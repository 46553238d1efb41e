"""Text rules that are grammars: llguidance's Lark as it is, and GBNF (EBNF with `::=`) converted to it."""

import re

from gateway.constraints.gbnf import GBNFError, lark_of_gbnf
from gateway.constraints.text_rule import TextRule
from gateway.errors import InvalidRequestError

_LARK = re.compile(r"^\s*(?:%llguidance\b|[?!]*start\b[^:\n]*:(?!:=))", re.MULTILINE)
_GBNF = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


def grammar_rule(grammar: str, field: str) -> TextRule:
    """Return the rule for texts of the grammar. Raises InvalidRequestError for what is neither Lark nor GBNF."""
    if _LARK.search(grammar):
        return TextRule(lark=grammar, field=field)
    if not _GBNF.search(grammar):
        raise InvalidRequestError(
            f"{field}: must be a grammar in GBNF, with a rule `root ::= …`, or in Lark, with a rule `start: …`",
            param=field,
        )
    try:
        return TextRule(lark=lark_of_gbnf(grammar), field=field)
    except GBNFError as error:
        raise InvalidRequestError(f"{field}: not a valid grammar in GBNF: {error}", param=field) from None
