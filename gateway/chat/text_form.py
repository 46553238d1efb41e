"""The form of a completion, which has no conversation: the rule for its text."""

from dataclasses import replace

from gateway.answers.text_request import TextRequest
from gateway.constraints.compiler import GrammarCompiler
from gateway.constraints.compose import text_constraint
from gateway.constraints.text_rule import TextRule
from gateway.models.served_model import ServedModel


async def with_text_rule(
    request: TextRequest, rule: TextRule | None, model: ServedModel, grammars: GrammarCompiler
) -> TextRequest:
    """Return the request with the rule. Raises InvalidRequestError, with the field and the reason, if it cannot be used."""
    if rule is None:
        return request
    constraint = text_constraint(rule, model.tokenizer)
    await grammars.check_grammar(model, constraint.grammar, rule.field, schema=rule.schema)
    params = replace(request.sampling.params, constraint=constraint)
    return replace(request, sampling=replace(request.sampling, params=params))
