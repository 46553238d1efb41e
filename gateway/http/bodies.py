"""From the bytes of a request's body to a schema: bounded in bytes and in what parsing costs, and strict if so set.

What a JSON text costs is told from its bytes, since parsing keeps the interpreter's lock until it is done. The cost is in
numbers: 800,000 of them take about 50 ms. A string, a key too, costs as much as 8 numbers, an array or an object as much as 40.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from fastapi import Request

from gateway.errors import ErrorKind, GatewayError, InvalidRequestError
from gateway.http.http_context import note_ignored_fields
from gateway.http.schema import MAX_SHOWN_CHARACTERS, SchemaT

MAX_INLINE_BYTES = 1 << 16
"""A body up to this length is parsed and validated within about 5 ms."""
CONTAINER = 40
STRING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyReader:
    """Reads the bodies of all routes that take JSON."""

    max_bytes: int
    max_values: int
    strict_fields: bool
    """Whether a field that is unknown or without effect is refused, rather than left out."""

    async def read_body(self, request: Request, schema: type[SchemaT]) -> SchemaT:
        return await self.read_body_as(request, lambda _: schema)

    async def read_body_as(self, request: Request, choose: Callable[[Mapping[str, Any]], type[SchemaT]]) -> SchemaT:
        """Read the body for a route whose schema depends on what is in it.

        A long body is parsed in a thread: its Python validators let other threads run.
        """
        raw = await self._read_json(request)
        parse = partial(self._parse, request, raw, choose)
        return parse() if len(raw) <= MAX_INLINE_BYTES else await asyncio.to_thread(parse)

    def _parse(self, request: Request, raw: bytes, choose: Callable[[Mapping[str, Any]], type[SchemaT]]) -> SchemaT:
        """Refuse unknown fields and those without effect, or leave them out and name them in the response's header."""
        body = _parse_object(raw)
        schema = choose(body)
        if unknown := schema.unknown_fields(body):
            if self.strict_fields:
                raise InvalidRequestError(f"{unknown[0]}: unknown field", param=unknown[0])
            note_ignored_fields(request, unknown)
        parsed = schema.parse_body(body)
        if without_effect := parsed.without_effect:
            if self.strict_fields:
                name = without_effect[0]
                raise InvalidRequestError(f"{name}: not supported with this value; leave it out", param=name)
            note_ignored_fields(request, (*without_effect, *unknown))
        return parsed

    async def _read_json(self, request: Request) -> bytes:
        """Return the whole body, which is cheap enough to be parsed."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise GatewayError(
                ErrorKind.UNSUPPORTED_ENCODING,
                f"Content-Encoding: {encoding[:MAX_SHOWN_CHARACTERS]} is not supported; send the request body uncompressed.",
            )
        raw = await _read_limited(request, self.max_bytes)
        if await _cost_exceeds(raw, self.max_values):
            raise InvalidRequestError(
                f"The request body has more than {self.max_values} values, where a string counts as 8 and an array or object as 40."
            )
        return raw


async def _read_limited(request: Request, max_bytes: int) -> bytes:
    """Return the whole body. One that says it is too long is not read; one that does not say is read up to the limit."""
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


def _json_type(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


async def _cost_exceeds(raw: bytes, limit: int) -> bool:
    """Return whether parsing `raw` costs more than `limit`. What stands within strings costs nothing, however it looks."""
    if CONTAINER * len(raw) <= limit or _highest_cost(raw) <= limit:
        return False
    return await asyncio.to_thread(_cost, raw, limit) > limit


def _highest_cost(raw: bytes) -> int:
    """Return the cost if nothing stood within strings. A string has two quotation marks."""
    return _cost_of_marks(raw, 0, len(raw)) + raw.count(b'"') * STRING // 2


def _cost(raw: bytes, limit: int) -> int:
    """Return the cost, or any number above the limit where it is more."""
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
