"""The constraint of a chat's answer, checked part by part, so that an error names the field at fault."""

import asyncio
from dataclasses import dataclass
from functools import partial

from gateway.constraints.answer_form import AnswerForm
from gateway.constraints.call_grammar import Exactness, ToolRule, arguments_grammar
from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import compose_constraint, text_constraint
from gateway.constraints.json_rule import schema_problem
from gateway.constraints.refusals import with_place
from gateway.constraints.text_value import UnsupportedSchemaError
from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.models.served_model import ServedModel
from gateway.prompts.tools import Tool, ToolChoice, ToolMode
from pagoda.models.output_formats.description import CallSyntax
from pagoda.wire.constraint import Constraint

_MANY_TOOLS = 16
MAX_TOOLS_S = 30.0
"""Maximum time for the checks of one request's tools, in seconds. A thousand schemas may each need the limit of one check."""


async def answer_constraint(grammars: GrammarCompiler, model: ServedModel, form: AnswerForm) -> Constraint | None:
    """Return the constraint, or None if the answer is free.

    Raises InvalidRequestError, with the field and the reason, if the workers could not use it.
    """
    text = form.text
    if text is None and not form.callable_tools:
        return compose_constraint(form, model.tokenizer, ())
    origin = form.origin
    if (kept := grammars.kept.find(model.tokenizer, origin)) is not None:
        return kept
    rules = await _tool_rules(grammars, model, form)
    if text is not None:
        alone = text_constraint(text, model.tokenizer)
        await grammars.check_grammar(model, alone.grammar, text.field, schema=text.schema)
    compose = partial(compose_constraint, form, model.tokenizer, rules)
    # Many tools take some time, in which other requests are answered.
    constraint = await asyncio.to_thread(compose) if len(rules) >= _MANY_TOOLS else compose()
    if constraint is not None and constraint.grammar:
        await grammars.check_grammar(model, constraint.grammar, "tools" if rules or text is None else text.field)
        grammars.kept.keep(model.tokenizer, origin, constraint)
    return constraint


async def _tool_rules(grammars: GrammarCompiler, model: ServedModel, form: AnswerForm) -> list[ToolRule]:
    """Return the rules of the tools that may be called; none if no grammar can bind their calls."""
    calls, choice = form.output_format.calls, form.choice
    if calls is None or choice.mode is ToolMode.NONE:
        return []
    if not calls.trigger and form.text is None and choice.mode is not ToolMode.REQUIRED:
        return []
    checks = _ToolChecks(grammars, model, calls)
    try:
        async with asyncio.timeout(MAX_TOOLS_S):
            return [await checks.rule_of(tool, choice) for tool in form.callable_tools]
    except TimeoutError:
        # The schemas that were checked are known when the client tries again.
        raise GatewayError(
            ErrorKind.OVERLOADED,
            f"tools: their schemas could not be checked within {MAX_TOOLS_S:g} s; try again later, or send fewer or simpler ones.",
            param="tools",
            retry_after_s=MAX_TOOLS_S,
        ) from None


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
