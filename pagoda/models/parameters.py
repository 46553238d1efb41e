"""The parameters that a model may bring, as text: Ollama's `options`, read from words and written as lines.

Knows nothing about what they do; the server refuses values that make no sense.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pagoda.models.errors import ModelfileError

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
    # Hints to Ollama's runner: accepted, since they change no answer.
    "num_keep": int,
    "num_batch": int,
    "num_gpu": int,
    "num_thread": int,
}


def parse_parameter(name: str, words: Sequence[str]) -> Any:
    """The value for a request's `options`: a list of strings for `stop`, a number for all others."""
    if name == "stop":
        return list(words)
    if name not in _TYPES:
        raise ModelfileError(f"unknown parameter '{name}' (known: {', '.join(sorted([*_TYPES, 'stop']))})")
    kind = _TYPES[name]
    try:
        (word,) = words
        return kind(word)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ModelfileError(f"{name} must be {wanted}, got {' '.join(words)!r}") from None


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
