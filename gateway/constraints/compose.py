"""The constraint of an answer: one grammar from its text rule and its tools, and where it begins."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from gateway.constraints.answer_form import AnswerForm
from gateway.constraints.call_grammar import ToolRule, triggered_calls, whole_calls
from gateway.constraints.lark import literals, one_of, sequence
from gateway.constraints.text_rule import TextRule
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import ToolMode
from pagoda.models.output_formats.description import OutputFormat, ReasoningSyntax
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint, Marker, Reasoning


def compose_constraint(form: AnswerForm, tokenizer: Tokenizer, tools: Sequence[ToolRule]) -> Constraint | None:
    """Return the constraint, or None if the answer is free. `tools` are the rules of those that may be called.

    - One has to be called: the answer consists of calls. There is no text to which the text rule could apply.
    - One may be called, and there is a text rule: the answer consists of calls, or of text under the rule.
    - One may be called, and the text is free: a call is bound from its trigger on. Calls without a trigger are not bound.
    """
    output_format, text, choice = form.output_format, form.text, form.choice
    syntax = None if form.reasoning is ReasoningStart.NONE else output_format.reasoning
    before = None if syntax is None else _reasoning(syntax, form.reasoning, tokenizer, form.thinking_budget)
    calls = output_format.calls if tools and choice.mode is not ToolMode.NONE else None
    alternatives, triggers = dict[str, str](), list[str]()
    if calls is not None and choice.mode is ToolMode.REQUIRED:
        alternatives["calls"] = whole_calls(calls, tokenizer, tools, parallel=choice.parallel)
        text = None
    elif calls is not None and (text is None or text.triggers) and calls.trigger:
        alternatives["calls"] = triggered_calls(calls, tokenizer, tools, parallel=choice.parallel)
        triggers.append(calls.trigger)
    elif calls is not None and text is not None and not text.triggers:
        alternatives["calls"] = whole_calls(calls, tokenizer, tools, parallel=choice.parallel)
    if text is not None:
        alternatives["text"] = text.lark
        triggers += text.triggers
    if not alternatives:
        return None if before is None or form.thinking_budget is None else Constraint(reasoning=before)
    lead = "" if triggers else _lead(output_format, tokenizer, before)
    root = f"start: {sequence(lead, one_of([f'@{name}' for name in alternatives]))}"
    grammars = {"root": root, **alternatives, **(text.parts if text else {})}
    in_reasoning = calls is not None and calls.trigger in triggers and calls.in_reasoning
    return _constraint(grammars, tokenizer, before, triggers, triggers_in_reasoning=in_reasoning)


def text_constraint(text: TextRule, tokenizer: Tokenizer) -> Constraint:
    """Return the constraint of an answer that is only text, without reasoning: the continuation of a raw prompt."""
    lead = "/ ?/" if _begins_with_space(tokenizer) and not text.triggers else ""
    grammars = {"root": f"start: {sequence(lead, '@text')}", "text": text.lark, **text.parts}
    return _constraint(grammars, tokenizer, None, text.triggers)


def _constraint(
    grammars: Mapping[str, str],
    tokenizer: Tokenizer,
    before: Reasoning | None,
    triggers: Sequence[str],
    *,
    triggers_in_reasoning: bool = False,
) -> Constraint:
    """Return the constraint of several grammars. The first is the root, and names the others as `@name`."""
    grammar = json.dumps({"grammars": [{"name": name, "lark_grammar": lark} for name, lark in grammars.items()]})
    return Constraint(
        grammar=grammar,
        digest=hashlib.sha256(grammar.encode()).digest(),
        reasoning=before,
        triggers=tuple(marker(trigger, tokenizer) for trigger in triggers),
        triggers_in_reasoning=triggers_in_reasoning,
    )


def _lead(output_format: OutputFormat, tokenizer: Tokenizer, before: Reasoning | None) -> str:
    """Return an expression for what a model writes before an answer.

    After reasoning that is line breaks, which the parser leaves out. In a vocabulary of SentencePiece the first token carries a
    space. In some formats it is the name of a channel.
    """
    line_ends = r"[\r\n]{0,4}" if before is not None else ""
    expression = line_ends + (" ?" if _begins_with_space(tokenizer) else "")
    space = f"/{expression}/" if expression else ""
    control_tokens = tokenizer.special_tokens
    ends = {control_tokens.get(output_format.reasoning.close.strip()) if output_format.reasoning else None}
    markers = [
        literals(text, control_tokens)
        for text in output_format.answer_markers
        if control_tokens.get(text) not in {*tokenizer.eos_token_ids, *ends} - {None}
    ]
    return sequence(space, f"{one_of(markers)}{{0,3}}" if markers else "")


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
