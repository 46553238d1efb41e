"""The parameters that a model may bring, under the names of Ollama's `options`: read from words, written as lines, checked.

Some of Ollama's change no answer here: HINTS with any value, NEUTRAL with these values only.
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

# What acts on an answer, and which field of SamplingParams has its range.
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
# Values below the range that mean something: no filter, the single best token, and no limit.
_BELOW_RANGE = MappingProxyType({"top_k": (-1,), "top_p": (0,), "num_predict": (-1, -2)})
_MAX_STOP_CHARACTERS = 1024
_INT_MAX = 2**31 - 1
_HUGE = 2**64

NEUTRAL: Mapping[str, tuple[int | float, ...]] = MappingProxyType(
    {"mirostat": (0,), "mirostat_eta": (0.1,), "mirostat_tau": (5.0, 5), "tfs_z": (1.0, 1), "typical_p": (1.0, 1)}
)
"""Not supported beyond these values."""

HINTS = frozenset(
    {
        "draft_num_predict",
        "f16_kv",
        "logits_all",
        "low_vram",
        "main_gpu",
        "num_batch",
        "num_gpu",
        # What survives a shift of the context, which never happens here.
        "num_keep",
        "num_thread",
        "numa",
        "penalize_newline",
        "use_mlock",
        "use_mmap",
        "vocab_only",
    }
)
"""About Ollama's runner: memory, threads and layers are the scheduler's business here."""

_OLD = frozenset({"num_gqa"})
"""No longer in Ollama's API, but in Modelfiles of its early days: model files say it themselves."""


def parse_parameter(name: str, words: Sequence[str]) -> Any:
    """Return the value for a request's `options`: a list of strings for `stop`, a number for all others.

    Raises ModelfileError for what no request could use.
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
        raise ModelfileError(f"{name} must be {wanted}, got {shortened(' '.join(words))}") from None
    return _usable(name, value)


def _usable(name: str, value: object) -> Any:
    try:
        return checked_parameter(name, value)
    except ValueError as error:
        raise ModelfileError(str(error)) from None


def parameter_lines(parameters: Mapping[str, Any], width: int = 30) -> Iterator[str]:
    """One `name value` for each value, in the columns of /api/show: `stop` may have several."""
    for name, value in parameters.items():
        for each in value if isinstance(value, list) else [value]:
            yield f"{name:<{width}} {_spelled(each)}"


def _spelled(value: object) -> str:
    """So that it reads back the same: numbers as Go writes them, and texts in quotes."""
    if isinstance(value, str):
        quote = '"""' if '"' in value or "\n" in value else '"'
        return f"{quote}{value}{quote}"
    return str(value).removesuffix(".0")


def checked_parameter(name: str, value: object) -> Any:
    """The value in its proper type; ValueError, with a sentence, where it is none that `name` can have.

    Of SAMPLING_PARAMETERS; numbers may come as text writes them, such as 40.0 for a whole number.
    """
    if name == "stop":
        return _checked_stops(value)
    number = _checked_number(name, value)
    if (problem := _range_problem(name, number)) is not None:
        raise ValueError(problem)
    return number


def _range_problem(name: str, number: float) -> str | None:
    if name == "seed":
        return None if -(2**63) <= number < 2**64 else f"seed must have at most 64 bits, got {number}"
    if number > _INT_MAX:
        return f"{name} must be at most {_INT_MAX}, got {number}"
    if name == "repeat_last_n":
        return None if number >= -1 else f"repeat_last_n must be -1 (the whole context), 0 (off) or more, got {number}"
    if number in _BELOW_RANGE.get(name, ()):
        return None
    # The range is written once; its sentence begins with the name that the parameter has there.
    field = _FIELDS[name]
    value: Any = number
    problem = replace(SamplingParams(), **{field: value}).problem()
    return None if problem is None else problem.replace(field, name, 1)


def _checked_number(name: str, value: object) -> int | float:
    # Whole numbers may be too large to be any float.
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _HUGE:
        raise ValueError(f"{name} must be a number, got {shortened(value)}")
    if _TYPES[name] is float:
        return float(value)
    if value != int(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def shortened(value: object) -> str:
    """As Python writes it, in at most 100 characters."""
    # Python refuses to write whole numbers of thousands of digits.
    text = "a whole number of too many digits" if isinstance(value, int) and abs(value) >= _HUGE else repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _checked_stops(value: object) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(
        isinstance(stop, str) and 0 < len(stop) <= _MAX_STOP_CHARACTERS for stop in stops
    ):
        raise ValueError(f"stop must be texts of 1 to {_MAX_STOP_CHARACTERS} characters, got {shortened(value)}")
    return stops


def changes_nothing(name: str, value: str) -> bool:
    """Whether this parameter, as a Modelfile spells it, changes no answer.

    Raises ModelfileError where it would, because its value is not a neutral one.
    """
    if name not in NEUTRAL:
        return name in HINTS or name in _OLD
    if _number(value) in NEUTRAL[name]:
        return True
    raise ModelfileError(f"{name} {value} is not supported (allowed: {NEUTRAL[name][0]:g}); take it out")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
