"""Durations in Ollama's notation: `5m`, `1h30m`, or a number of seconds. A negative one means forever."""

import math
import re

MAX_CHARACTERS = 32
LONGEST_S = 200 * 365 * 86400
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_PART.pattern})+|[+-]?0", re.ASCII)


def parse_duration(value: float | str) -> float:
    """Return the seconds of a duration, or infinity for forever. Raises ValueError if it is malformed."""
    if isinstance(value, str):
        if len(value) > MAX_CHARACTERS or not _DURATION.fullmatch(value):
            raise ValueError(f'must be a number of seconds or a duration such as "5m" (got {value[:MAX_CHARACTERS]!r})')
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
        seconds = -seconds if value.startswith("-") else seconds
    else:
        seconds = value
    return math.inf if seconds < 0 or seconds > LONGEST_S else float(seconds)


def parse_setting(text: str) -> float:
    """Return the seconds of a duration in a setting, where a number is text too. Raises ValueError if it is malformed."""
    try:
        seconds = float(text)
    except ValueError:
        return parse_duration(text)
    if math.isnan(seconds):
        return parse_duration(text)
    return parse_duration(seconds)
