"""The form of answers that the user chose with --format and --think, or with /set."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from pagoda.cli.failure import CommandError

LEVELS = ("low", "medium", "high", "max")
_THINK_WORDS: dict[str, bool | str] = {"true": True, "false": False, **{level: level for level in LEVELS}}


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """The form of answers. None leaves a value to the server."""

    format: str | dict[str, Any] | None = None
    """`json`, or a JSON Schema."""
    think: bool | str | None = None
    """True if the model thinks before it answers, or how much."""


class RunCommand(TyperCommand):
    """The command `pagoda run`, whose option --think has a value only after `=`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_with_values(args)))


def parse_format(text: str) -> str | dict[str, Any]:
    """Return the format: `json`, a JSON Schema, or that of a file. Raises CommandError."""
    if text == "json":
        return text
    try:
        schema = json.loads(text if text.lstrip().startswith("{") else Path(text).expanduser().read_text("utf-8"))
    except OSError as error:
        raise CommandError(
            f"the format must be json, a JSON Schema, or a file with one (got {text!r}: {error.strerror})"
        ) from None
    except ValueError as error:
        raise CommandError(f"the format is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise CommandError(f"the format must be a JSON Schema, which is an object (got {schema!r:.80})")
    return schema


def parse_think(text: str) -> bool | str:
    """Return the value of --think. Raises CommandError."""
    if text not in _THINK_WORDS:
        raise CommandError(f"--think must be {', '.join(_THINK_WORDS)} (got {text!r})")
    return _THINK_WORDS[text]


def _with_values(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with `--think` as `--think=true`. The word after it is an argument of its own, as with Ollama."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            yield from (argument, *rest)
        else:
            yield "--think=true" if argument == "--think" else argument
