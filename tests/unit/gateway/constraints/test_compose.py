"""Tests of the constraint of an answer: from its text rule, its tools and the choice among them, and the reasoning before it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from gateway.constraints.answer_form import AnswerForm
from gateway.constraints.call_grammar import ToolRule
from gateway.constraints.choice_rule import choice_rule
from gateway.constraints.compose import compose_constraint, text_constraint
from gateway.constraints.json_rule import json_object_rule
from gateway.constraints.structural_tag import structural_tag_rule
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice, ToolMode
from pagoda.models.output_formats.description import described_formats
from pagoda.wire.constraint import Constraint, Marker
from tests.fakes.byte_tokenizer import ByteTokenizer
from tests.unit.gateway.constraints.matching import Vocabulary

TOKENIZER = ByteTokenizer(["<think>", "</think>"])
TOOL = ToolRule(Tool(name="f"))
CALL = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
REQUIRED = ToolChoice(mode=ToolMode.REQUIRED)
YES_NO = choice_rule(["yes", "no"], "f")


def composed(
    name: str = "hermes",
    *,
    tokenizer: ByteTokenizer = TOKENIZER,
    tools: Sequence[ToolRule] = (),
    choice: ToolChoice | None = None,
    **fields: Any,
) -> Constraint | None:
    form = AnswerForm(output_format=described_formats()[name], choice=choice or ToolChoice(), **fields)
    return compose_constraint(form, tokenizer, tools)


def accepted(constraint: Constraint | None, texts: Sequence[str], tokenizer: ByteTokenizer = TOKENIZER) -> list[str]:
    """Return the texts that the grammar accepts."""
    assert constraint is not None
    assert constraint.digest == hashlib.sha256(constraint.grammar.encode()).digest()
    return [text for text in texts if Vocabulary.of(tokenizer).accepts(constraint.grammar, text)]


@pytest.mark.parametrize("reasoning", ReasoningStart)
def test_a_free_answer_has_no_constraint(reasoning: ReasoningStart) -> None:
    assert composed(reasoning=reasoning) is None
    assert composed(reasoning=reasoning, tools=[TOOL], choice=ToolChoice(mode=ToolMode.NONE)) is None
    assert composed("llama-json", reasoning=reasoning, tools=[TOOL]) is None, "its calls begin like any text"


def test_a_text_rule_governs_the_whole_answer() -> None:
    texts = ["yes", "no", "maybe", " yes", "\nyes", CALL]
    constraint = composed(text=YES_NO)
    assert accepted(constraint, texts) == ["yes", "no"] == accepted(text_constraint(YES_NO, TOKENIZER), texts)
    assert constraint and not constraint.triggers and constraint.reasoning is None
    assert composed(text=YES_NO, tools=[TOOL], choice=ToolChoice(mode=ToolMode.NONE)) == constraint


def test_an_answer_after_reasoning_may_begin_with_line_breaks() -> None:
    constraint = composed(text=YES_NO, reasoning=ReasoningStart.MAY_OPEN)
    assert accepted(constraint, ["yes", "\n\nyes", "\n\n\n\n\nyes", " yes", "\n\x0byes", "\u205fyes"]) == [
        "yes",
        "\n\nyes",
    ]
    think, end = TOKENIZER.special_tokens["<think>"], TOKENIZER.special_tokens["</think>"]
    assert constraint and constraint.reasoning
    assert constraint.reasoning.open == Marker(text=b"<think>", token_id=think)
    assert constraint.reasoning.close == Marker(text=b"</think>", token_id=end)
    assert not constraint.reasoning.is_open and not constraint.reasoning.closing_token_ids
    opened = composed(text=YES_NO, reasoning=ReasoningStart.OPEN)
    assert opened and opened.reasoning and opened.reasoning.is_open and opened.grammar == constraint.grammar


def test_a_budget_needs_no_grammar() -> None:
    constraint = composed(reasoning=ReasoningStart.OPEN, thinking_budget=7)
    assert constraint and not constraint.grammar and not constraint.digest and constraint.reasoning
    assert constraint.reasoning.budget == 7
    closing = TOKENIZER.decode(constraint.reasoning.closing_token_ids, skip_special_tokens=False)
    assert closing == "\n</think>\n\n"
    assert composed(reasoning=ReasoningStart.NONE, thinking_budget=7) is None, "there is no reasoning"


def test_a_marker_that_is_no_token_is_found_by_its_text() -> None:
    constraint = composed(reasoning=ReasoningStart.OPEN, thinking_budget=7, tokenizer=ByteTokenizer())
    assert constraint and constraint.reasoning
    assert constraint.reasoning.close == Marker(text=b"</think>", token_id=None)


def test_a_required_call_is_the_whole_answer() -> None:
    texts = [CALL, f"{CALL}\n{CALL}", "yes", f"Well. {CALL}", ""]
    constraint = composed(tools=[TOOL], choice=REQUIRED)
    assert accepted(constraint, texts) == texts[:2]
    assert accepted(composed(tools=[TOOL], choice=replace(REQUIRED, parallel=False)), texts) == [CALL]
    assert composed(tools=[TOOL], choice=REQUIRED, text=YES_NO) == constraint
    assert constraint and not constraint.triggers


def test_a_bare_call_can_be_required() -> None:
    texts = ['{"name": "f", "parameters": {}}', '{"name": "g", "parameters": {}}', "Hi"]
    assert accepted(composed("llama-json", tools=[TOOL], choice=REQUIRED), texts) == texts[:1]


def test_a_call_is_bound_from_its_trigger_on() -> None:
    constraint = composed(tools=[TOOL], reasoning=ReasoningStart.MAY_OPEN)
    assert constraint and constraint.triggers == (Marker(text=b"<tool_call>", token_id=None),)
    assert accepted(constraint, [CALL, f"x{CALL}", "x", f"{CALL}{CALL}"]) == [CALL, f"x{CALL}"]
    assert not constraint.triggers_in_reasoning
    inside = composed("qwen-xml", tools=[TOOL], reasoning=ReasoningStart.MAY_OPEN)
    assert inside and inside.triggers_in_reasoning


def test_a_text_rule_and_tools_work_together() -> None:
    constraint = composed(tools=[TOOL], text=json_object_rule("f"))
    texts = [CALL, f"{CALL}\n{CALL}", '{"a": 1}', "Hi", f'{{"a": 1}}{CALL}']
    assert accepted(constraint, texts) == texts[:3]
    assert constraint and not constraint.triggers
    bare = composed("llama-json", tools=[TOOL], text=YES_NO)
    assert accepted(bare, ['{"name": "f", "parameters": {}}', "yes", "Hi"]) == [
        '{"name": "f", "parameters": {}}',
        "yes",
    ]


def test_free_text_with_tags_keeps_its_triggers() -> None:
    tag: dict[str, Any] = {
        "structures": [{"begin": "<n>", "schema": {"type": "integer"}, "end": "</n>"}],
        "triggers": ["<n>"],
    }
    rule = structural_tag_rule(tag, "f")
    constraint = composed(text=rule)
    assert constraint and [each.text for each in constraint.triggers] == [b"<n>"]
    both = composed(text=rule, tools=[TOOL])
    assert both and [each.text for each in both.triggers] == [b"<tool_call>", b"<n>"]
    assert accepted(both, ["<n>1</n>", CALL, "<n>x</n>"]) == ["<n>1</n>", CALL]


def test_an_answer_may_begin_with_the_name_of_its_channel() -> None:
    names = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>"]
    tokenizer = ByteTokenizer(names)
    constraint = composed("harmony", tokenizer=tokenizer, text=YES_NO, reasoning=ReasoningStart.MAY_OPEN)
    texts = ["yes", "<|channel|>final<|message|>yes", "<|start|>assistant<|channel|>final<|message|>no", "<|end|>yes"]
    assert accepted(constraint, texts, tokenizer) == texts[:3]
    call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>"
    required = composed("harmony", tokenizer=tokenizer, tools=[TOOL], choice=REQUIRED)
    assert accepted(required, [call, f"<|start|>assistant{call}", "yes"], tokenizer) == [
        call,
        f"<|start|>assistant{call}",
    ]


class SpacedTokenizer(ByteTokenizer):
    """A tokenizer like SentencePiece's, which puts a space before a text."""

    def encode(self, text: str, *, parse_control_tokens: bool = True, **options: Any) -> list[int]:
        return super().encode(f" {text}", parse_control_tokens=parse_control_tokens)


def test_a_vocabulary_whose_first_token_carries_a_space() -> None:
    spaced = SpacedTokenizer()
    for constraint in (text_constraint(YES_NO, spaced), composed(tokenizer=spaced, text=YES_NO)):
        assert accepted(constraint, [" yes", "yes", "  yes"], ByteTokenizer()) == [" yes", "yes"]
