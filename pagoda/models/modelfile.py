"""Parsing and rendering of Modelfiles, Ollama's format for the definition of a model.

The instructions are FROM, PARAMETER, SYSTEM, TEMPLATE (Jinja), LICENSE and MESSAGE. Any other is an error.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelfileError
from pagoda.models.formats.chat_template_text import is_go_template
from pagoda.models.model_settings import ModelSettings
from pagoda.models.parameters import changes_nothing, parameter_lines, parse_parameter

INSTRUCTIONS = ("FROM", "LICENSE", "MESSAGE", "PARAMETER", "SYSTEM", "TEMPLATE")
_UNSUPPORTED = ("ADAPTER", "DRAFT", "PARSER", "RENDERER", "REQUIRES")
_ROLES = ("system", "user", "assistant")
# An instruction, then a value to the end of the line, or in quotes. A value in """ or " may span lines.
_INSTRUCTION = re.compile(r"(?P<name>\S+)(?:\s+(?P<rest>.*))?", re.DOTALL)
_QUOTES = ('"""', '"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """A parsed Modelfile."""

    base: str
    """Value of FROM: a model, a GGUF file, or a directory of safetensors."""
    settings: ModelSettings
    warnings: tuple[str, ...] = ()
    """Messages about instructions that were ignored."""


def parse_modelfile(text: str) -> Modelfile:
    """Parse a Modelfile. Raises ModelfileError, whose message has the line number."""
    base = ""
    scalars: dict[str, str] = {}
    licenses: list[str] = []
    messages: list[dict[str, str]] = []
    parameters: dict[str, Any] = {}
    warnings: list[str] = []
    for line, name, value in _instructions(text):
        try:
            match name:
                case "FROM":
                    base = _unquoted(value)
                case "SYSTEM":
                    scalars["system"] = _unquoted(value)
                case "TEMPLATE":
                    scalars["template"] = _jinja(_unquoted(value))
                case "LICENSE":
                    licenses.append(_unquoted(value))
                case "MESSAGE":
                    messages.append(_message(value))
                case _ if changes_nothing(*_parameter(value)):
                    warnings.append(f"line {line} of the Modelfile: PARAMETER {value} has no effect; ignored")
                case _:
                    _add_parameter(parameters, *_parameter(value))
        except ModelfileError as error:
            raise ModelfileError(f"line {line} of the Modelfile: {error}") from None
    if not base:
        raise ModelfileError("the Modelfile has no FROM line; add FROM with a model, a GGUF file or a directory")
    settings = ModelSettings(parameters=parameters, license=licenses, messages=messages, **scalars)
    return Modelfile(base=base, settings=settings, warnings=tuple(warnings))


def render_modelfile(base: str, settings: ModelSettings, *, name: str = "") -> str:
    """Return a Modelfile that parses to these settings. A comment says that `name` may replace `base` in a new Modelfile."""
    lines = ["# Made by Pagoda", *([f"# To make a model from this one instead: FROM {name}"] if name else [])]
    lines += [f"FROM {base}"]
    lines += [f'TEMPLATE """{settings.template}"""'] if settings.template else []
    lines += [f'SYSTEM """{settings.system}"""'] if settings.system else []
    lines += [f"PARAMETER {line}" for line in parameter_lines(settings.parameters, width=0)]
    lines += [f'LICENSE """{text}"""' for text in settings.license]
    lines += [f"MESSAGE {message['role']} {_quoted(message['content'])}" for message in settings.messages]
    return "\n".join([*lines, ""])


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, name, value as written). A quoted value may continue over several lines."""
    lines = re.split(r"\r?\n", text.removeprefix("\ufeff"))
    at = 0
    while at < len(lines):
        first = at
        at += 1
        # Only the left side: spaces at the line's end may belong to a quoted value that continues.
        line = lines[first].lstrip()
        if not line or line.startswith("#"):
            continue
        match = _INSTRUCTION.fullmatch(line)
        assert match is not None
        name, value = match["name"].upper(), match["rest"] or ""
        _refuse_unknown(first + 1, name, match["name"])
        while (quote := _open_quote(name, value)) and at < len(lines):
            value += "\n" + lines[at]
            at += 1
        if quote:
            raise ModelfileError(f"line {first + 1} of the Modelfile: {quote} is not closed")
        yield first + 1, name, value.rstrip()


def _refuse_unknown(line: int, name: str, written: str) -> None:
    if name in _UNSUPPORTED:
        raise ModelfileError(f"line {line} of the Modelfile: {name} is not supported; remove it")
    if name not in INSTRUCTIONS:
        raise ModelfileError(
            f"line {line} of the Modelfile: unknown instruction {written[:40]!r} (known: {', '.join(INSTRUCTIONS)})"
        )


def _open_quote(name: str, value: str) -> str | None:
    """Return the quote that is still open, or None. It follows a message's role or a parameter's name, if there is one."""
    value = _split_word(value)[1] if name in ("MESSAGE", "PARAMETER") else value.strip()
    for quote in _QUOTES:
        if value.startswith(quote):
            return None if len(value) >= 2 * len(quote) and value.endswith(quote) else quote
    return None


def _split_word(value: str) -> tuple[str, str]:
    word, rest = [*value.split(None, 1), "", ""][:2]
    return word, rest.strip()


def _unquoted(value: str) -> str:
    value = value.strip()
    for quote in _QUOTES:
        if value.startswith(quote) and value.endswith(quote) and len(value) >= 2 * len(quote):
            return value[len(quote) : -len(quote)]
    return value


def _quoted(value: str) -> str:
    needs_quotes = "\n" in value or value != value.strip() or value.startswith('"') or not value
    return f'"""{value}"""' if needs_quotes else value


def _jinja(template: str) -> str:
    if is_go_template(template):
        raise ModelfileError("TEMPLATE is a Go template; write it in Jinja, or omit it to use the model's own")
    return template


def _message(value: str) -> dict[str, str]:
    role, content = _split_word(value)
    if role not in _ROLES:
        raise ModelfileError(f"MESSAGE must begin with a role: {', '.join(_ROLES)} (got {role!r})")
    return {"role": role, "content": _unquoted(content)}


def _parameter(value: str) -> tuple[str, str]:
    name, word = _split_word(value)
    return name, _unquoted(word)


def _add_parameter(parameters: dict[str, Any], name: str, word: str) -> None:
    parsed = parse_parameter(name, [word])
    # Several lines of `stop` are several strings.
    parameters[name] = [*parameters.get(name, []), *parsed] if isinstance(parsed, list) else parsed
