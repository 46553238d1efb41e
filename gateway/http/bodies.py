"""The dependencies that read request bodies. FastAPI's own body parameters have no limits.

A JSON body is limited in bytes and in parsing cost. The cost is counted in the raw bytes before parsing, since parsing holds the
interpreter lock until it is done. Its unit is one number: 800,000 numbers take about 50 ms. A string or a key costs as much as 8
numbers, an array or an object as much as 40.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, Union

import orjson
from fastapi import Depends, Request

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.http.http_context import note_ignored_fields
from gateway.http.schema import MAX_SHOWN_CHARACTERS, Schema, SchemaT

MAX_INLINE_BYTES = 1 << 16
"""A body up to this length is parsed and validated within about 5 ms."""
CONTAINER = 40
STRING = 8

Choose = Callable[[Mapping[str, Any]], type[SchemaT]]
"""A function that returns the schema of a body, which may depend on the body's fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyReader:
    """A reader that limits and validates JSON bodies. An app has one, as `app.state.bodies`."""

    max_bytes: int
    max_values: int
    """Highest parsing cost of a body, in numbers."""
    strict_fields: bool
    """True if unknown fields, and fields without effect, are errors. Otherwise they are ignored."""

    async def read_body(self, request: Request, choose: Choose[SchemaT]) -> SchemaT:
        """Return the validated body.

        A long body is parsed in a thread: its Python validators let other threads run.
        """
        raw = await self._read_json(request)
        parse = partial(self._parse, request, raw, choose)
        return parse() if len(raw) <= MAX_INLINE_BYTES else await asyncio.to_thread(parse)

    def _parse(self, request: Request, raw: bytes, choose: Choose[SchemaT]) -> SchemaT:
        """Validate the body. Unknown fields and fields without effect are errors, or are named in a response header."""
        body = _parse_object(raw)
        schema = choose(body)
        if unknown := schema.unknown_fields(body):
            if self.strict_fields:
                raise InvalidRequestError(f"{unknown[0]}: unknown field", param=unknown[0])
            note_ignored_fields(request, unknown)
        parsed = schema.parse_body(body)
        if without_effect := parsed.without_effect:
            self.note_without_effect(request, without_effect)
        return parsed

    def note_without_effect(self, request: Request, names: Sequence[str]) -> None:
        """Name fields of a body whose values have no effect, in a response header, or raise an error for the first of them."""
        if self.strict_fields:
            raise InvalidRequestError(f"{names[0]}: not supported with this value; leave it out", param=names[0])
        note_ignored_fields(request, names)

    async def _read_json(self, request: Request) -> bytes:
        """Return the raw body, or raise an error if it is too long or too costly to parse."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise GatewayError(
                ErrorKind.UNSUPPORTED_ENCODING,
                f"Content-Encoding: {encoding[:MAX_SHOWN_CHARACTERS]} is not supported. Send the request body uncompressed.",
            )
        raw = await _read_limited(request, self.max_bytes)
        if await _cost_exceeds(raw, self.max_values):
            raise InvalidRequestError(
                f"The request body may have at most {self.max_values} values, where a string counts as 8 and an array or object "
                "as 40."
            )
        return raw


@dataclass(frozen=True, slots=True)
class JSONBody(Generic[SchemaT]):
    """A dependency whose value is the request's JSON body, validated against one of its schemas."""

    schemas: tuple[type[SchemaT], ...]
    choose: Choose[SchemaT]

    async def __call__(self, request: Request) -> SchemaT:
        reader: BodyReader = request.app.state.bodies
        return await reader.read_body(request, self.choose)

    @property
    def annotation(self) -> Any:
        """The type of the body, for the API document."""
        return Union[self.schemas]  # noqa: UP007  # the number of types is not known here


def json_body(*schemas: type[Schema], choose: Choose[Schema] | None = None) -> Any:
    """Return the dependency of a handler that takes a JSON body: `body: Annotated[ChatRequest, json_body(ChatRequest)]`.

    With several schemas, `choose` returns the one that fits the body's fields.
    """
    return Depends(JSONBody(schemas, choose or (lambda _: schemas[0])))


async def stream_body(request: Request) -> AsyncIterator[bytes]:
    """Return the chunks of the request's body as they arrive. There is no limit to their number."""
    return request.stream()


ByteStream = Annotated[AsyncIterator[bytes], Depends(stream_body)]
"""The body of a handler that takes bytes of any length."""


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. A body that is declared too long is not read; any other is read up to the limit."""
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


def _parse_object(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        raise InvalidRequestError("missing request body; send a JSON object")
    try:
        body = orjson.loads(raw)  # raises for invalid UTF-8, NaN, lone surrogates and deep nesting too
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The request body is not {_why_no_json(raw, error)}") from None
    if not isinstance(body, dict):
        raise InvalidRequestError(f"The request body must be a JSON object (got {_json_type(body)}).")
    return body


def _why_no_json(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as wrong:
        if raw.startswith(b"\x1f\x8b"):
            return "JSON but compressed by gzip; send it uncompressed."
        return f"UTF-8 text: byte {raw[wrong.start]:#04x} at position {wrong.start} is wrong. Encode the JSON as UTF-8."
    return f"valid JSON: {error}"


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


async def _cost_exceeds(raw: bytes, limit: int) -> bool:
    """Return whether parsing `raw` costs more than `limit`. Punctuation inside strings costs nothing."""
    if CONTAINER * len(raw) <= limit or _highest_cost(raw) <= limit:
        return False
    return await asyncio.to_thread(_cost, raw, limit) > limit


def _highest_cost(raw: bytes) -> int:
    """Return an upper bound of the cost: all punctuation counts, also inside strings. A string has two quotation marks."""
    return _cost_of_marks(raw, 0, len(raw)) + raw.count(b'"') * STRING // 2


def _cost(raw: bytes, limit: int) -> int:
    """Return the exact cost, or any number above the limit if the cost is above it."""
    raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    cost = position = 0
    while cost <= limit:
        opening = raw.find(b'"', position)
        cost += _cost_of_marks(raw, position, len(raw) if opening < 0 else opening)
        closing = -1 if opening < 0 else raw.find(b'"', opening + 1)
        if closing < 0:
            break
        cost += STRING
        position = closing + 1
    return cost


def _cost_of_marks(raw: bytes, start: int, end: int) -> int:
    num_containers = raw.count(b"[", start, end) + raw.count(b"{", start, end)
    return raw.count(b",", start, end) + num_containers * CONTAINER
