"""The rule for the text of an answer, from the fields in which OpenAI's, vLLM's and llama.cpp's clients send it."""

from collections.abc import Callable, Iterator

from gateway.chat.structured_outputs import structured_rule
from gateway.constraints.choice_rule import choice_rule
from gateway.constraints.grammar_rule import grammar_rule
from gateway.constraints.json_rule import STYLE, JSONStyle, json_object_rule, json_schema_rule
from gateway.constraints.regex_rule import regex_rule
from gateway.constraints.structural_tag import structural_tag_rule
from gateway.constraints.text_rule import TextRule
from gateway.errors import InvalidRequestError
from gateway.openai.text_rule_schema import ResponseFormat, TextRuleFields

_Rule = tuple[str, Callable[[], TextRule]]
"""The field of a rule, and the function that makes it."""


def text_rule_of(body: TextRuleFields) -> TextRule | None:
    """Return the rule, or None if the text is free. Raises InvalidRequestError for two rules, or one that is not valid."""
    rules = list(_rules(body))
    if not rules:
        return None
    if len(rules) > 1:
        field, other = rules[0][0], rules[1][0]
        raise InvalidRequestError(f"{field}: not possible together with {other}; send only one of them", param=field)
    return rules[0][1]()


def _rules(body: TextRuleFields) -> Iterator[_Rule]:
    if body.response_format is not None and body.response_format.type != "text":
        yield _response_format(body.response_format)
    if body.structured_outputs is not None:
        asked = body.structured_outputs
        yield "structured_outputs", lambda: structured_rule(asked, "structured_outputs")
    style = JSONStyle(whitespace=body.guided_whitespace_pattern or STYLE.whitespace)
    if (schema := body.guided_json) is not None:
        yield "guided_json", lambda: json_schema_rule(schema, "guided_json", style)
    if (regex := body.guided_regex) is not None:
        yield "guided_regex", lambda: regex_rule(regex, "guided_regex")
    if (choices := body.guided_choice) is not None:
        yield "guided_choice", lambda: choice_rule(choices, "guided_choice")
    if guided_grammar := body.guided_grammar:
        yield "guided_grammar", lambda: grammar_rule(guided_grammar, "guided_grammar")
    if (json_schema := body.json_schema) is not None:
        yield "json_schema", lambda: json_schema_rule(json_schema, "json_schema")
    if grammar := body.grammar:
        yield "grammar", lambda: grammar_rule(grammar, "grammar")


def _response_format(form: ResponseFormat) -> _Rule:
    match form.type:
        case "json_object" if (schema := form.schema_) is not None:
            return "response_format.schema", lambda: json_schema_rule(schema, "response_format.schema")
        case "json_object":
            return "response_format", lambda: json_object_rule("response_format")
        case "structural_tag":
            described = form.model_dump(exclude_none=True, include={"format", "structures", "triggers"})
            return "response_format", lambda: structural_tag_rule(described, "response_format")
    field = "response_format.json_schema.schema"
    asked = form.json_schema.schema_ if form.json_schema is not None else None
    if asked is None:
        raise InvalidRequestError(f"{field}: required", param=field)
    return field, lambda: json_schema_rule(asked, field)
