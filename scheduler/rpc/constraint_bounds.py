"""The checks of a client's constraint, made before anything is copied. The grammar itself is opaque here."""

import hashlib
from collections.abc import Iterator

from pagoda.wire.constraint import MAX_CLOSING_TOKENS, MAX_GRAMMAR_BYTES, MAX_MARKER_BYTES, MAX_TRIGGERS
from protos.v1 import types_pb2


def constraint_problem(constraint: types_pb2.Constraint) -> str | None:
    """Return what is wrong and what is allowed, with the name of the field, or None."""
    return next(_problems(constraint), None)


def _problems(constraint: types_pb2.Constraint) -> Iterator[str]:
    grammar = constraint.grammar.encode()
    if len(grammar) > MAX_GRAMMAR_BYTES:
        yield f"grammar may have at most {MAX_GRAMMAR_BYTES} bytes (got {len(grammar)})"
    if constraint.digest != (hashlib.sha256(grammar).digest() if grammar else b""):
        yield f"digest must be the sha256 of the grammar, 32 bytes, or empty without a grammar (got {_hex(constraint.digest)})"
    if constraint.triggers and not grammar:
        yield "triggers begin the grammar, but there is none"
    if len(constraint.triggers) > MAX_TRIGGERS:
        yield f"triggers may have at most {MAX_TRIGGERS} entries (got {len(constraint.triggers)})"
    for number, trigger in enumerate(constraint.triggers):
        yield from _marker_problems(f"triggers[{number}]", trigger)
    if constraint.HasField("reasoning"):
        yield from _reasoning_problems(constraint.reasoning)


def _reasoning_problems(reasoning: types_pb2.Reasoning) -> Iterator[str]:
    if not reasoning.is_open:
        yield from _marker_problems("reasoning.open", reasoning.open)
    yield from _length_problems("reasoning.open", reasoning.open)
    yield from _marker_problems("reasoning.close", reasoning.close)
    num_closing = len(reasoning.closing_token_ids)
    if num_closing > MAX_CLOSING_TOKENS:
        yield f"reasoning.closing_token_ids may have at most {MAX_CLOSING_TOKENS} ids (got {num_closing})"
    if reasoning.HasField("budget") and not num_closing:
        yield "reasoning.closing_token_ids must have at least one id if reasoning.budget is set"


def _marker_problems(field: str, marker: types_pb2.Marker) -> Iterator[str]:
    if not marker.text and not marker.HasField("token_id"):
        yield f"{field} must have a text or a token_id"
    yield from _length_problems(field, marker)


def _length_problems(field: str, marker: types_pb2.Marker) -> Iterator[str]:
    if len(marker.text) > MAX_MARKER_BYTES:
        yield f"{field}.text may have at most {MAX_MARKER_BYTES} bytes (got {len(marker.text)})"


def _hex(digest: bytes) -> str:
    return f"{len(digest)} bytes, {digest[:32].hex()}" if digest else "none"
