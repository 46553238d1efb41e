"""The constraint of a chat's answer, checked part by part, so that an error names the field at fault."""

from collections.abc import Sequence

from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import compose_constraint
from gateway.constraints.text_rule import TextRule
from gateway.models.served_model import ServedModel
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice
from pagoda.models.output_formats.description import OutputFormat
from pagoda.wire.constraint import Constraint


async def answer_constraint(
    grammars: GrammarCompiler,
    model: ServedModel,
    output_format: OutputFormat,
    *,
    reasoning: ReasoningStart,
    text: TextRule | None,
    tools: Sequence[Tool],
    choice: ToolChoice,
    thinking_budget: int | None = None,
) -> Constraint | None:
    """Return the constraint, or None if the answer is free.

    Raises InvalidRequestError, with the field and the reason, if the workers could not use it.
    """
    constraint = compose_constraint(
        output_format,
        model.tokenizer,
        reasoning=reasoning,
        text=text,
        tools=tools,
        choice=choice,
        thinking_budget=thinking_budget,
    )
    if constraint is not None and constraint.grammar:
        field = "tools" if text is None else text.field
        await grammars.check_grammar(model, constraint.grammar, field, schema=text.schema if text else None)
    return constraint
