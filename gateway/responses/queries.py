"""The parameters in the query of a request's URL, checked here so that an error names the parameter and what is allowed."""

from gateway.errors import InvalidRequestError
from gateway.http.schema import shown


def flag(name: str, value: str | None) -> bool:
    """Return whether the parameter is true. Without it, it is false."""
    given = "false" if value is None else value.lower()
    if given not in ("true", "false", "1", "0"):
        raise _invalid(name, "must be true or false", given)
    return given in ("true", "1")


def integer(name: str, value: str | None, low: int, high: int) -> int | None:
    """Return the parameter as a number, or None if it is absent."""
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= 10 and low <= int(value) <= high):
        raise _invalid(name, f"must be an integer from {low} to {high}", value)
    return int(value)


def choice(name: str, value: str | None, *allowed: str) -> str:
    """Return the parameter, or the first allowed value if it is absent."""
    if value is None:
        return allowed[0]
    if value not in allowed:
        raise _invalid(name, f"must be {' or '.join(map(repr, allowed))}", value)
    return value


def _invalid(name: str, message: str, value: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name}: {message} (got {shown(value)})", param=name)
