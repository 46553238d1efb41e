"""Parameters of a model, with the names of Ollama's `options`: parsing, formatting and validation.

Some of Ollama's parameters have no effect here: HINTS with any value, NEUTRAL only with the listed values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pagoda.models.errors import ModelfileError
from pagoda.wire.sampling import SamplingParams

_TYPES: dict[str, type] = {
    "num_predict": int,
    "num_ctx": int,
    "seed": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repeat_penalty": float,
    "repeat_last_n": int,
    "presence_penalty": float,
    "frequency_penalty": float,
}

# Parameters that change answers, and the field of SamplingParams that has the same range.
_FIELDS = MappingProxyType(
    {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "num_predict": "max_tokens",
        "num_ctx": "max_tokens",
    }
)
SAMPLING_PARAMETERS = (*_FIELDS, "repeat_last_n", "seed", "stop")
# Values below the range with a special meaning: no filter, only the best token, and no limit.
_BELOW_RANGE = MappingProxyType({"top_k": (-1,), "top_p": (0,), "num_predict": (-1, -2)})
_MAX_STOP_CHARACTERS = 1024
_INT_MAX = 2**31 - 1
_HUGE = 2**64

NEUTRAL: Mapping[str, tuple[int | float, ...]] = MappingProxyType(
    {"mirostat": (0,), "mirostat_eta": (0.1,), "mirostat_tau": (5.0, 5), "tfs_z": (1.0, 1), "typical_p": (1.0, 1)}
)
"""Unsupported parameters with the values that have no effect. Other values are refused."""

HINTS = frozenset(
    {
        "draft_num_predict",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_gpu",
        # Tokens kept when the context is shifted, which never happens here.
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""Parameters of Ollama's runner. Here the tiers' own settings control memory, threads and layers."""

_OLD = frozenset({"num_gqa"})
"""Parameters of old Modelfiles that Ollama's API no longer has. The model's files contain the value."""


def parse_parameter(name: str, words: Sequence[str]) -> Any:
    """Return the value for a request's `options`: a list of strings for `stop`, a number for all others.

    Raises ModelfileError if the name or value is invalid.
    """
    if name == "stop":
        return _usable(name, list(words))
    if name not in _TYPES:
        raise ModelfileError(f"unknown parameter '{name}' (known: {', '.join(sorted([*_TYPES, 'stop']))})")
    kind = _TYPES[name]
    try:
        (word,) = words
        value = kind(word)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ModelfileError(f"{name} must be {wanted} (got {shortened(' '.join(words))})") from None
    return _usable(name, value)


def _usable(name: str, value: object) -> Any:
    try:
        return checked_parameter(name, value)
    except ValueError as error:
        raise ModelfileError(str(error)) from None


def parameter_lines(parameters: Mapping[str, Any], width: int = 30) -> Iterator[str]:
    """Yield a line `name value` for each value, in the columns of /api/show. `stop` may have several values."""
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"{name:<{width}} {_spelled(each)}"


def _spelled(value: object) -> str:
    """Return the value so that it parses to the same again: numbers in Go's format, texts in quotes."""
    if isinstance(value, str):
        quote = '"""' if '"' in value or "\n" in value else '"'
        return f"{quote}{value}{quote}"
    return str(value).removesuffix(".0")


def checked_parameter(name: str, value: object) -> Any:
    """Return the value in its proper type. Raises ValueError, with a message for the user, if `name` cannot have it.

    `name` is one of SAMPLING_PARAMETERS. A whole number may be a float, such as 40.0.
    """
    if name == "stop":
        return _checked_stops(value)
    number = _checked_number(name, value)
    if (problem := _range_problem(name, number)) is not None:
        raise ValueError(problem)
    return number


def _range_problem(name: str, number: float) -> str | None:
    if name == "seed":
        return None if -(2**63) <= number < 2**64 else f"seed must have at most 64 bits (got {number})"
    if number > _INT_MAX:
        return f"{name} must be at most {_INT_MAX} (got {number})"
    if name == "repeat_last_n":
        return None if number >= -1 else f"repeat_last_n must be -1 (the whole context), 0 (off) or more (got {number})"
    if number in _BELOW_RANGE.get(name, ()):
        return None
    # SamplingParams defines the range. Its message begins with the field's name, which is replaced.
    field = _FIELDS[name]
    value: Any = number
    problem = replace(SamplingParams(), **{field: value}).problem()
    return None if problem is None else problem.replace(field, name, 1)


def _checked_number(name: str, value: object) -> int | float:
    # A whole number may be too large for a float.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _HUGE:
        raise ValueError(f"{name} must be a number (got {shortened(value)})")
    if _TYPES[name] is float:
        return float(value)
    if value != int(value):
        raise ValueError(f"{name} must be a whole number (got {value!r})")
    return int(value)


def shortened(value: object) -> str:
    """Return the value's `repr`, in at most 100 characters."""
    # Python refuses to format whole numbers of thousands of digits.
    text = "a whole number with too many digits" if isinstance(value, int) and abs(value) >= _HUGE else repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _checked_stops(value: object) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(
        isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_CHARACTERS for stop in stops
    ):
        raise ValueError(f"stop must be strings of 1 to {_MAX_STOP_CHARACTERS} characters (got {shortened(value)})")
    return stops


def changes_nothing(name: str, value: str) -> bool:
    """Return True if the parameter, as written in a Modelfile, has no effect here.

    Raises ModelfileError if it is not supported with this value.
    """
    if name not in NEUTRAL:
        return name in HINTS or name in _OLD
    if _number(value) in NEUTRAL[name]:
        return True
    raise ModelfileError(f"{name} {value} is not supported (allowed: {NEUTRAL[name][0]:g}); remove it")


def why_ignored(name: str, value: str) -> str | None:
    """Return why the parameter, as written in a Modelfile, is ignored: "has no effect", for example. None for one that is used."""
    if name in SAMPLING_PARAMETERS:
        return None
    if name in HINTS or name in _OLD:
        return "has no effect"
    if name not in NEUTRAL:
        return "is unknown"
    return "has no effect" if _number(value) in NEUTRAL[name] else "is not supported"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
