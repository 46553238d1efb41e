"""The check of the variables that a client passes to a chat template (`chat_template_kwargs`)."""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.prompts.chat_template import RESERVED_VARIABLES, THINKING_VARIABLES

MAX_VARIABLES = 64
MAX_VARIABLE_BYTES = 1 << 16
"""Maximum size of all variables together, as JSON."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def check_template_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """Return the variables. Raises ValueError with the reason if one must not be set, or if they are too many or too large."""
    if len(variables) > MAX_VARIABLES:
        raise ValueError(f"may have at most {MAX_VARIABLES} variables, not {len(variables)}")
    for name in variables:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"a name must have 1 to 64 letters of ASCII, digits or `_` after a letter, not {name[:80]!r}"
            )
        if name in RESERVED_VARIABLES:
            raise ValueError(f"{name!r} is set by the server; use the request's own fields")
    _check_thinking(variables)
    try:
        size = len(orjson.dumps(variables))
    except TypeError:  # too deep for orjson, or a number beyond 64 bits
        raise ValueError("nested too deeply, or with numbers of more than 64 bits") from None
    if size > MAX_VARIABLE_BYTES:
        raise ValueError(f"may have at most {MAX_VARIABLE_BYTES} bytes of JSON, not {size}")
    return variables


def asked_thinking(variables: Mapping[str, Any]) -> bool | None:
    """Return whether the variables say that the model thinks. Templates have several names for it."""
    return next((variables[name] for name in THINKING_VARIABLES if variables.get(name) is not None), None)


def without_thinking(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other variables."""
    return {name: value for name, value in variables.items() if name not in THINKING_VARIABLES}


def _check_thinking(variables: Mapping[str, Any]) -> None:
    asked = {name: variables[name] for name in THINKING_VARIABLES if variables.get(name) is not None}
    for name, value in asked.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false")
    if len(set(asked.values())) > 1:
        raise ValueError(f"{' and '.join(THINKING_VARIABLES)} must not differ")
