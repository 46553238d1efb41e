"""Text rules for JSON: any object, or what a JSON Schema allows."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.constraints.enforceable_schema import enforceable, exactness_problem
from gateway.constraints.finite_values import can_end
from gateway.constraints.schema_walk import with_closed_objects
from gateway.constraints.text_rule import TextRule, refuse_long
from gateway.errors import InvalidRequestError

WHITESPACE = r" {1,2}|\r?\n( {0,24}|\t{0,12})"
"""Whitespace between two parts of JSON: up to two spaces, or a line break with indentation. Bounded, since weak models would write
it without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JSONStyle:
    """The style of JSON that a rule allows."""

    whitespace: str | None = WHITESPACE
    """Regular expression of the whitespace that may stand between two parts; None for none at all."""
    closes_objects: bool = True
    """True if objects have no properties besides those that the schema names, unless it says otherwise.

    Without it a weak model adds properties without end.
    """


STYLE = JSONStyle()


def json_object_rule(field: str, style: JSONStyle = STYLE) -> TextRule:
    """Return the rule for any JSON object."""
    return json_schema_rule({"type": "object"}, field, JSONStyle(whitespace=style.whitespace))


def json_schema_rule(schema: Any, field: str, style: JSONStyle = STYLE) -> TextRule:
    """Return the rule for JSON under the schema. Raises InvalidRequestError for what is no schema."""
    schema = checked_schema(schema, field, style)
    return TextRule(lark=f"start: {json_expression(schema, field, style)}", field=field, schema=schema)


def checked_schema(schema: Any, field: str, style: JSONStyle = STYLE) -> Any:
    """Return the schema, with text that contains JSON read, and with closed objects if the style has them.

    Raises InvalidRequestError for what is no schema, and for what llguidance would change silently.
    """
    if isinstance(schema, str):
        refuse_long(schema, field)
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"{field}: must be a JSON Schema (not JSON: {error})", param=field) from None
    if not isinstance(schema, Mapping | bool):
        raise InvalidRequestError(
            f"{field}: must be a JSON Schema, which is an object (got {type(schema).__name__})", param=field
        )
    try:
        problem = schema_problem(schema)
        schema = with_closed_objects(schema) if style.closes_objects else schema
    except RecursionError:
        raise InvalidRequestError(f"{field}: nested too deeply", param=field) from None
    if problem is not None:
        raise InvalidRequestError(f"{field}: {problem}", param=field)
    return schema


def schema_problem(schema: Any) -> str | None:
    """Return why the schema cannot be enforced, if llguidance would not say so, or None. Raises RecursionError."""
    if not can_end(schema):
        return "no value can satisfy it: it requires itself without end"
    return exactness_problem(schema)


def json_expression(
    schema: Any, field: str, style: JSONStyle = STYLE, *, is_lenient: bool = False, escapes: str | None = None
) -> str:
    """Return the schema as an expression of a Lark rule.

    `is_lenient` drops keywords that llguidance does not know. `escapes` are the characters that may follow a backslash.
    """
    options = {
        "json_allow_general_unicode_escapes": escapes is None,
        **({"json_allowed_escapes": escapes} if escapes is not None else {}),
        "coerce_one_of": is_lenient,
        "lenient": is_lenient,
        **({"whitespace_flexible": False} if style.whitespace is None else {"whitespace_pattern": style.whitespace}),
    }
    # The options of a client would change what the rule means.
    try:
        content = schema if isinstance(schema, bool) else {**enforceable(schema), "x-guidance": options}
        if content is True:
            content = {"x-guidance": options}
        return f"%json {json.dumps(content)}"
    except RecursionError:
        raise InvalidRequestError(f"{field}: nested too deeply", param=field) from None
