"""The constraint of an answer: one grammar from its text rule and its tools, and where it begins."""

import hashlib
import json
from collections.abc import Sequence

from gateway.constraints.text_rule import TextRule
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice
from pagoda.models.output_formats.description import OutputFormat, ReasoningSyntax
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint, Marker, Reasoning


def compose_constraint(
    output_format: OutputFormat,
    tokenizer: Tokenizer,
    *,
    reasoning: ReasoningStart,
    text: TextRule | None,
    tools: Sequence[Tool],
    choice: ToolChoice,
    thinking_budget: int | None = None,
) -> Constraint | None:
    """Return the constraint, or None if the answer is free."""
    syntax = None if reasoning is ReasoningStart.NONE else output_format.reasoning
    if text is None and (thinking_budget is None or syntax is None):
        return None
    before = None if syntax is None else _reasoning(syntax, reasoning, tokenizer, thinking_budget)
    if text is None:
        return Constraint(reasoning=before)
    return _text_constraint(text, tokenizer, before)


def text_constraint(text: TextRule, tokenizer: Tokenizer) -> Constraint:
    """Return the constraint of an answer that is only text, without reasoning: the continuation of a raw prompt."""
    return _text_constraint(text, tokenizer, None)


def _text_constraint(text: TextRule, tokenizer: Tokenizer, before: Reasoning | None) -> Constraint:
    lead = "" if text.triggers else _lead(tokenizer, is_after_reasoning=before is not None)
    grammar = _joined({"root": f"start: {lead} @text", "text": text.lark, **text.parts})
    return Constraint(
        grammar=grammar,
        digest=hashlib.sha256(grammar.encode()).digest(),
        reasoning=before,
        triggers=tuple(marker(trigger, tokenizer) for trigger in text.triggers),
    )


def _joined(grammars: dict[str, str]) -> str:
    """Return several grammars as one. The first is the root, and names the others as `@name`."""
    return json.dumps({"grammars": [{"name": name, "lark_grammar": lark} for name, lark in grammars.items()]})


def _lead(tokenizer: Tokenizer, *, is_after_reasoning: bool) -> str:
    """Return an expression for the whitespace that a model writes before an answer.

    After reasoning it is line breaks. In a vocabulary of SentencePiece the first token carries a space.
    """
    if is_after_reasoning:
        return r"/\s{0,4}/"
    return "/ ?/" if _begins_with_space(tokenizer) else ""


def _begins_with_space(tokenizer: Tokenizer) -> bool:
    """Return True if the first token of a text carries a space that the text does not have."""
    ids = tokenizer.encode("a", add_special_tokens=False, parse_control_tokens=False)
    return bool(ids) and tokenizer.token_bytes(ids[0]).startswith(b" ")


def _reasoning(syntax: ReasoningSyntax, start: ReasoningStart, tokenizer: Tokenizer, budget: int | None) -> Reasoning:
    return Reasoning(
        open=marker(syntax.open.strip(), tokenizer),
        is_open=start is ReasoningStart.OPEN,
        close=marker(syntax.close.strip(), tokenizer),
        budget=budget,
        closing_token_ids=() if budget is None else tuple(_closing_token_ids(syntax, tokenizer)),
    )


def _closing_token_ids(syntax: ReasoningSyntax, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that end reasoning, on lines of their own unless the description says otherwise."""
    close = syntax.close
    text = f"\n{close}\n\n" if close == close.strip() else close
    return tokenizer.encode(text, add_special_tokens=False)


def marker(text: str, tokenizer: Tokenizer) -> Marker:
    """Return the marker for a text, with its token if it is a single one."""
    token_id = tokenizer.special_tokens.get(text)
    if token_id is None:
        ids = tokenizer.encode(text, add_special_tokens=False)
        token_id = ids[0] if len(ids) == 1 else None
    return Marker(text=text.encode(), token_id=token_id)
