"""Text rules that allow one of several texts."""

from collections.abc import Sequence

from gateway.constraints.lark import literal
from gateway.constraints.text_rule import TextRule
from gateway.errors import InvalidRequestError

MAX_CHOICES = 1024


def choice_rule(choices: Sequence[str], field: str) -> TextRule:
    """Return the rule for one of the texts, which are not empty."""
    for index, choice in enumerate(choices):
        if not choice:
            raise InvalidRequestError(f"{field}.{index}: must not be empty", param=f"{field}.{index}")
    # One lexeme: with several, a choice that begins like another one would end the shorter one's.
    texts = " | ".join(literal(choice) for choice in dict.fromkeys(choices))
    return TextRule(lark=f"start: CHOICE\nCHOICE: {texts}", field=field)
