"""The base class of all request bodies. It defines which fields a body may have, and the errors that name a wrong field.

Each API declares its own schemas, and the values that it accepts without acting on them.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, ClassVar, Self, TypeVar, get_args

import orjson
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from gateway.errors import InvalidRequestError
from gateway.http.kinds import SMALLEST_WIRE_BOUND, kind_at, with_standard_bounds

MAX_SHOWN_CHARACTERS = 80
"""Longest value that an error shows, in characters."""
MAX_NAMED = 16
"""Maximum number of unknown fields that a header names."""
MAX_NAME_CHARACTERS = 64
"""Longest name in a header, in characters. Proxies limit the length of headers."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
_BRANCHES = frozenset({"str", "int", "float", "bool", "dict", "list"})


def with_example(body: Mapping[str, Any]) -> ConfigDict:
    """Return the configuration of a schema whose documentation shows this body. The page /docs offers it for a first request."""
    return ConfigDict(json_schema_extra={"examples": [dict(body)]})


class FieldError(ValueError):
    """An error of a validator that checks several fields. It names the field at fault, which pydantic cannot know."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Schema(BaseModel):
    """A request body. Values are not converted to other types, and null is the same as an absent field.

    `neutral` lists the API's fields that are not supported, with the values that change nothing: these are accepted, any other
    value is an error that names the field. Fields of other APIs are among them if this API has another field for their purpose,
    which `instead` names, because an answer without what the client asked for would be wrong in silence.

    `hints` lists fields that never change the answer; any value is accepted. All other fields are unknown: they are ignored, and
    `unknown_fields` names them.
    """

    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    instead: ClassVar[Mapping[str, str]] = {}
    hints: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _keep_what_is_honoured(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        if body.keys() <= _honoured(cls) and None not in body.values():
            return body
        for name, accepted in cls.neutral.items():
            value = body.get(name)
            if value is not None and not any(type(value) is type(each) and value == each for each in accepted):
                allowed = " or ".join(orjson.dumps(each).decode() for each in accepted or (None,))
                advice = f"use `{cls.instead[name]}`" if name in cls.instead else f"leave it out or send {allowed}"
                raise FieldError(name, f"not supported (got {shown(value)}): {advice}")
        return {name: value for name in _honoured(cls) if (value := body.get(name)) is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Add the neutral fields and the hints, so that the API document has all fields that are accepted."""
        reference = handler(core_schema)
        resolved = handler.resolve_ref_schema(reference)
        resolved["properties"] = properties = with_standard_bounds(resolved.get("properties", {}))
        for name, accepted in cls.neutral.items():
            properties[name] = {"enum": [*accepted, None], "description": "Not supported: only values without effect."}
        for name in sorted(cls.hints):
            properties[name] = {"description": "Accepted; changes no answer."}
        return reference

    @classmethod
    def parse_body(cls, body: Any) -> Self:
        """Return the validated body, or raise InvalidRequestError for its first problem."""
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise _as_invalid_request(cls, error) from None

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Names of fields whose values have no effect here, though the API defines one."""
        return ()

    @classmethod
    def unknown_fields(cls, body: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the paths of the first unknown fields, also of those in nested objects."""
        return first_unknown(_shape(cls), body)


class SchemaShape:
    """The names of the fields that a body may have, and the shapes of the nested objects by field."""

    def __init__(self, known: frozenset[str], nested: Mapping[str, "SchemaShape"]) -> None:
        self._known = known
        self._nested = nested

    def merged(self, other: "SchemaShape") -> "SchemaShape":
        """Return the shape that has the fields of both."""
        nested = {**self._nested, **other._nested}
        for name in self._nested.keys() & other._nested.keys():
            nested[name] = self._nested[name].merged(other._nested[name])
        return SchemaShape(self._known | other._known, nested)

    def unknown_paths(self, body: Mapping[str, Any], path: str = "") -> Iterator[str]:
        """Yield the paths of unknown fields, such as `messages.0.timestamp`."""
        for name in body:
            if name not in self._known:
                yield f"{path}{_named(name)}"
        for name, shape in self._nested.items():
            match body.get(name):
                case dict() as inner:
                    yield from shape.unknown_paths(inner, f"{path}{name}.")
                case list() as several:
                    for index, inner in enumerate(several):
                        if isinstance(inner, dict):
                            yield from shape.unknown_paths(inner, f"{path}{name}.{index}.")


SchemaT = TypeVar("SchemaT", bound=Schema)


@cache
def _honoured(schema: type[Schema]) -> frozenset[str]:
    """Return the names of the schema's fields as they are in a body."""
    return frozenset(field.alias or name for name, field in schema.model_fields.items())


@cache
def _shape(schema: type[Schema]) -> SchemaShape:
    nested: dict[str, SchemaShape] = {}
    for name, field in schema.model_fields.items():
        # The fields of all branches of a union are known.
        for inner in _schemas(field.annotation):
            nested[name] = nested[name].merged(_shape(inner)) if name in nested else _shape(inner)
    return SchemaShape(_honoured(schema) | schema.neutral.keys() | schema.hints, nested)


def _schemas(annotation: Any) -> Iterator[type[Schema]]:
    """Yield the schemas in a field's type, such as `ChatMessage` in `list[ChatMessage] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        yield annotation
    for argument in get_args(annotation):
        yield from _schemas(argument)


def first_unknown(shape: SchemaShape, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the first MAX_NAMED paths, and `...` if there are more."""
    found = tuple(islice(shape.unknown_paths(body), MAX_NAMED + 1))
    return found if len(found) <= MAX_NAMED else (*found[:MAX_NAMED], "...")


def _named(name: str) -> str:
    """Return the name in a form that is safe in a header: short, ASCII, without separators."""
    safe = _UNSAFE.sub("?", name[: MAX_NAME_CHARACTERS + 1])
    if len(safe) > MAX_NAME_CHARACTERS:
        return f"{safe[: MAX_NAME_CHARACTERS - 3]}..."
    return safe or '""'


def _as_invalid_request(schema: type[Schema], error: ValidationError) -> InvalidRequestError:
    """Return an error with the first problem and its path in the body. For a union that is the problem of its last branch."""
    first = error.errors(include_url=False)[0]
    path = _path(first)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        path = f"{path}.{cause.field}" if path else cause.field
        return InvalidRequestError(f"{path}: {cause}", param=path)
    if first["type"] == "missing":
        return InvalidRequestError(f"{path}: required", param=path)
    message = str(cause) if cause is not None else _expected(schema, first)
    return InvalidRequestError(f"{path}: {message} (got {shown(first['input'])})", param=path)


def _expected(schema: type[Schema], problem: ErrorDetails) -> str:
    """Return what the value at the problem's path must be, in words of JSON instead of pydantic's."""
    context = problem.get("ctx", {})
    match problem["type"]:
        case "too_short":
            return f"must have at least {context['min_length']} item{'' if context['min_length'] == 1 else 's'}"
        case "too_long":
            return f"must have at most {context['max_length']} items"
        case "string_too_short":
            return f"must have at least {context['min_length']} character{'' if context['min_length'] == 1 else 's'}"
        case "string_too_long":
            return f"must have at most {context['max_length']} characters"
    exceeded = next((abs(bound) for name, bound in context.items() if name in ("ge", "gt", "le", "lt")), 0)
    kind = kind_at(_json_schema(schema), _steps(problem), all_bounds=exceeded >= SMALLEST_WIRE_BOUND)
    return f"must be {kind}" if kind else problem["msg"].replace("Input should be", "must be", 1)


@cache
def _json_schema(schema: type[Schema]) -> JsonSchemaValue:
    return schema.model_json_schema()


def _steps(problem: ErrorDetails) -> list[str | int]:
    """Return the fields and indexes on the way to the value, without pydantic's names for the branches of a union."""
    return [part for part in problem["loc"] if isinstance(part, int) or (part not in _BRANCHES and part.isidentifier())]


def _path(problem: ErrorDetails) -> str:
    """Return the path with dots, such as `messages.0.content`."""
    return ".".join(str(part) for part in _steps(problem))


class _Brief(reprlib.Repr):
    """A repr that reads only as much of a value as it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 4, 8, 8

    def repr_str(self, value: str, level: int) -> str:
        return repr(value[:MAX_SHOWN_CHARACTERS])

    def repr_dict(self, value: dict[str, Any], level: int) -> str:
        return super().repr_dict(dict(islice(value.items(), self.maxdict + 1)), level)


_brief = _Brief()


def shown(value: Any) -> str:
    """Return a value for an error message, cut to MAX_SHOWN_CHARACTERS characters."""
    text = _brief.repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
