"""The constraint of an answer: one grammar from its text rule and its tools, and where it begins."""

from collections.abc import Sequence

from gateway.constraints.text_rule import TextRule
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice
from pagoda.models.output_formats.description import OutputFormat
from pagoda.text.tokenizer import Tokenizer
from pagoda.wire.constraint import Constraint


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
    return None
