"""The parameters in the query of a request's URL."""

from fastapi import Request

from gateway.errors import InvalidRequestError
from gateway.http.schema import shown


def flag(request: Request, name: str) -> bool:
    """Return whether the parameter is true. Without it, it is false."""
    value = request.query_params.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise _invalid(name, "must be true or false", value)
    return value in ("true", "1")


def integer(request: Request, name: str, low: int, high: int) -> int | None:
    """Return the parameter's value, or None if it is absent."""
    value = request.query_params.get(name)
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 10 and low <= int(value) <= high):
        raise _invalid(name, f"must be an integer from {low} to {high}", value)
    return int(value)


def choice(request: Request, name: str, *allowed: str) -> str:
    """Return the parameter's value, or the first allowed one if it is absent."""
    value = request.query_params.get(name, allowed[0])
    if value not in allowed:
        raise _invalid(name, f"must be {' or '.join(map(repr, allowed))}", value)
    return value


def _invalid(name: str, message: str, value: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name}: {message} (got {shown(value)})", param=name)
