"""From the bytes of a request body to a validated schema, or to an error that names the offending field.

Knows nothing about what the fields mean: each dialect declares its schemas, and which values it accepts without acting on them.
"""

import reprlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any, ClassVar, Self, TypeVar, get_args

import orjson
from fastapi import Request
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.http.json_values import cost_exceeds
from gateway.http.unknown_fields import SchemaShape, first_unknown

MAX_SHOWN_CHARACTERS = 80


class FieldError(ValueError):
    """For validators of a whole body: names the field that is at fault, which pydantic cannot know there."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Schema(BaseModel):
    """A body of one kind, without coercion. Null is the same as an absent field. Subclasses list what they accept beside fields.

    `neutral` are fields of the dialect that are not supported, with the values under which they change nothing: these pass, any
    other value is refused by name. `hints` never change the answer and pass with any value. A field that is none of all these
    is unknown: it is left out, and `unknown_fields` names it.
    """

    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
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
                raise FieldError(name, f"not supported (got {shown(value)}): leave it out or send {allowed}")
        return {name: value for name in _honoured(cls) if (value := body.get(name)) is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Also of what is accepted besides the fields, so that the API's document knows all of it."""
        reference = handler(core_schema)
        properties = handler.resolve_ref_schema(reference).setdefault("properties", {})
        for name, accepted in cls.neutral.items():
            properties[name] = {"enum": [*accepted, None], "description": "Not supported beyond what changes nothing."}
        for name in sorted(cls.hints):
            properties[name] = {"description": "Accepted; changes no answer."}
        return reference

    @classmethod
    def parse(cls, body: Any) -> Self:
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise _as_invalid_request(error) from None

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Fields that are known, but not with their values here: they change nothing, though the API says otherwise."""
        return ()

    @classmethod
    def unknown_fields(cls, body: Mapping[str, Any]) -> tuple[str, ...]:
        """The paths of the first fields that are unknown, also inside the body's parts."""
        return first_unknown(_shape(cls), body)


SchemaT = TypeVar("SchemaT", bound=Schema)


@cache
def _honoured(schema: type[Schema]) -> frozenset[str]:
    """The fields' names in a body."""
    return frozenset(field.alias or name for name, field in schema.model_fields.items())


@cache
def _shape(schema: type[Schema]) -> SchemaShape:
    nested = {
        name: _shape(inner) for name, field in schema.model_fields.items() for inner in _schemas(field.annotation)
    }
    return SchemaShape(_honoured(schema) | schema.neutral.keys() | schema.hints, nested)


def _schemas(annotation: Any) -> Iterator[type[Schema]]:
    """Those that a field's type mentions, such as `ChatMessage` in `list[ChatMessage] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        yield annotation
    for argument in get_args(annotation):
        yield from _schemas(argument)


async def read_json(request: Request, *, max_bytes: int, max_values: int) -> bytes:
    """Return the whole body, which is cheap enough to be parsed; `json_values` says how its values are counted."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise GatewayError(
            ErrorKind.UNSUPPORTED_ENCODING,
            f"Content-Encoding: {encoding[:MAX_SHOWN_CHARACTERS]} is not supported; send the request body uncompressed.",
        )
    raw = await _read_limited(request, max_bytes)
    if await cost_exceeds(raw, max_values):
        raise InvalidRequestError(
            f"The request body has more than {max_values} values, where a string counts as 8 and an array or object as 40."
        )
    return raw


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    """The whole body. A body that says it is too long is not read; one that does not say is read up to the limit."""
    too_large = GatewayError(
        ErrorKind.BODY_TOO_LARGE, f"The request body is larger than the limit of {max_bytes} bytes."
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)


def parse_object(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        raise InvalidRequestError("missing request body")
    try:
        body = orjson.loads(raw)  # refuses invalid UTF-8, NaN, lone surrogates and deep nesting
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The request body is not {_why_no_json(raw, error)}") from None
    if not isinstance(body, dict):
        raise InvalidRequestError(f"The request body must be a JSON object, got {_json_type(body)}.")
    return body


def _why_no_json(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        if raw.startswith(b"\x1f\x8b"):
            return "JSON but compressed by gzip; send it uncompressed."
        return f"UTF-8 text: byte {raw[wrong.start]:#04x} at position {wrong.start} is wrong. Encode the JSON as UTF-8."
    return f"valid JSON: {error}"


def _as_invalid_request(error: ValidationError) -> InvalidRequestError:
    """The first problem, by its path in the body. Where a union failed, the problem of its last branch stands for all."""
    first = error.errors(include_url=False)[0]
    path = _path(first)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, FieldError):
        path = f"{path}.{cause.field}" if path else cause.field
        return InvalidRequestError(f"{path}: {cause}", param=path)
    if first["type"] == "missing":
        return InvalidRequestError(f"{path}: required", param=path)
    message = str(cause) if cause is not None else first["msg"][0].lower() + first["msg"][1:]
    return InvalidRequestError(f"{path}: {message} (got {shown(first['input'])})", param=path)


def _path(problem: ErrorDetails) -> str:
    """Keys and positions joined by dots, without the names that pydantic gives to the branches of a union."""
    parts = [part for part in problem["loc"] if isinstance(part, int) or part.isidentifier()]
    branches = {"str", "int", "float", "bool", "dict", "list"}
    return ".".join(str(part) for part in parts if part not in branches)


class _Brief(reprlib.Repr):
    """Looks at no more of a value than it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict = 4, 8, 8

    def repr_str(self, value: str, level: int) -> str:
        return repr(value[:MAX_SHOWN_CHARACTERS])

    def repr_dict(self, value: dict[str, Any], level: int) -> str:
        return super().repr_dict(dict(islice(value.items(), self.maxdict + 1)), level)


_brief = _Brief()


def shown(value: Any) -> str:
    """Return a value of a body for an error: at most its first MAX_SHOWN_CHARACTERS characters."""
    text = _brief.repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
