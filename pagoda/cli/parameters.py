"""The parameters that `/set parameter` and a Modelfile's PARAMETER know, and their types: Ollama's `options`.

Knows nothing about what they do; the server refuses values that make no sense.
"""

from collections.abc import Sequence
from typing import Any

from pagoda.cli.failure import CommandError

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
        raise CommandError(f"unknown parameter '{name}' (known: {', '.join(sorted([*_TYPES, 'stop']))})")
    kind = _TYPES[name]
    try:
        (word,) = words
        return kind(word)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise CommandError(f"{name} must be {wanted}, got {' '.join(words)!r}") from None
