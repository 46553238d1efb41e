"""The constraint of a chat's answer, checked part by part, so that an error names the field at fault."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gateway.constraints.call_grammar import Exactness, ToolRule, arguments_grammar
from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import compose_constraint, text_constraint
from gateway.constraints.json_rule import schema_problem
from gateway.constraints.kept_constraints import origin_of
from gateway.constraints.refusals import with_place
from gateway.constraints.text_rule import TextRule
from gateway.constraints.text_value import UnsupportedSchemaError
from gateway.errors import InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice, ToolMode
from pagoda.models.output_formats.description import CallSyntax, OutputFormat
from pagoda.wire.constraint import Constraint

_MANY_TOOLS = 16


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
    callable_tools = [tool for tool in tools if choice.names is None or tool.name in choice.names]
    if text is None and not callable_tools:
        return compose_constraint(
            output_format,
            model.tokenizer,
            reasoning=reasoning,
            text=None,
            tools=(),
            choice=choice,
            thinking_budget=thinking_budget,
        )
    origin = origin_of(output_format, reasoning, text, callable_tools, choice, thinking_budget)
    if (kept := grammars.kept.find(model.tokenizer, origin)) is not None:
        return kept
    rules: list[ToolRule] = []
    if (
        output_format.calls is not None
        and choice.mode is not ToolMode.NONE
        and (output_format.calls.trigger or text is not None or choice.mode is ToolMode.REQUIRED)
    ):
        checks = _ToolChecks(grammars, model, output_format.calls)
        rules = [await checks.rule_of(tool, choice) for tool in callable_tools]
    if text is not None:
        alone = text_constraint(text, model.tokenizer)
        await grammars.check_grammar(model, alone.grammar, text.field, schema=text.schema)
    compose = partial(
        compose_constraint,
        output_format,
        model.tokenizer,
        reasoning=reasoning,
        text=text,
        tools=rules,
        choice=choice,
        thinking_budget=thinking_budget,
    )
    # Many tools take some time, in which other requests are answered.
    constraint = await asyncio.to_thread(compose) if len(rules) >= _MANY_TOOLS else compose()
    if constraint is not None and constraint.grammar:
        await grammars.check_grammar(model, constraint.grammar, "tools" if rules or text is None else text.field)
        grammars.kept.keep(model.tokenizer, origin, constraint)
    return constraint


@dataclass(frozen=True, slots=True)
class _ToolChecks:
    """The checks of tools for one model."""

    grammars: GrammarCompiler
    model: ServedModel
    syntax: CallSyntax

    async def rule_of(self, tool: Tool, choice: ToolChoice) -> ToolRule:
        """Return how closely the tool's arguments can obey its schema.

        Raises InvalidRequestError if they must obey it and cannot: if the tool is strict, or has to be called.
        """
        exact = ToolRule(tool)
        problem = await self._problem(exact)
        if problem is None:
            return exact
        if tool.strict or choice.mode is ToolMode.REQUIRED:
            field = tool.schema_field
            raise InvalidRequestError(f"{field}: {with_place(problem, tool.parameters)}", param=field)
        lenient = ToolRule(tool, Exactness.LENIENT)
        return lenient if await self._problem(lenient) is None else ToolRule(tool, Exactness.ANY)

    async def _problem(self, rule: ToolRule) -> str | None:
        try:
            if (problem := schema_problem(rule.tool.parameters)) is not None:
                return problem
            grammar = arguments_grammar(self.syntax, self.model.tokenizer, rule)
        except UnsupportedSchemaError as error:
            return str(error)
        except RecursionError:
            return "nested too deeply"
        return await self.grammars.problem_of(self.model.tokenizer, grammar)
