"""Text rules that are grammars: llguidance's Lark as it is, and GBNF (EBNF with `::=`) converted to it."""

import re

from gateway.constraints.gbnf import MAX_GBNF_CHARACTERS, GBNFError, lark_of_gbnf
from gateway.constraints.text_rule import TextRule, refuse_long
from gateway.errors import InvalidRequestError

_LARK = re.compile(r"^[ \t]*(?:%llguidance\b|[?!]*start\b[^:\n]*:(?!:=))", re.MULTILINE)
_GBNF = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)


def grammar_rule(grammar: str, field: str) -> TextRule:
    """Return the rule for texts of the grammar. Raises InvalidRequestError for what is neither Lark nor GBNF."""
    refuse_long(grammar, field)
    if _LARK.search(grammar):
        return TextRule(lark=grammar, field=field)
    if not _GBNF.search(grammar):
        raise InvalidRequestError(
            f"{field}: must be a grammar in GBNF, with a rule `root ::= …`, or in Lark, with a rule `start: …`",
            param=field,
        )
    refuse_long(grammar, field, MAX_GBNF_CHARACTERS)
    try:
        return TextRule(lark=lark_of_gbnf(grammar), field=field)
    except GBNFError as error:
        raise InvalidRequestError(f"{field}: not a valid grammar in GBNF: {error}", param=field) from None
