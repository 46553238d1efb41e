"""Parsing and rendering of Modelfiles, Ollama's format for the definition of a model.

A Modelfile that `ollama show --modelfile` printed is parsed as it is. Instructions and parameters that Pagoda does not support are
ignored with a warning, except ADAPTER, without which the model would answer differently.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pagoda.models.errors import ModelfileError
from pagoda.models.model_settings import ModelSettings
from pagoda.models.parameters import parameter_lines, parse_parameter, why_ignored

INSTRUCTIONS = ("FROM", "LICENSE", "MESSAGE", "PARAMETER", "SYSTEM", "TEMPLATE")
_IGNORED = {
    "DRAFT": "speculative decoding with a draft model is not supported",
    "PARSER": "Ollama's parsers are not supported",
    "RENDERER": "the model's chat template writes the prompts",
    "REQUIRES": "it names a version of Ollama",
}
_ROLES = ("system", "user", "assistant")
# An instruction, then a value to the end of the line, or in quotes. A value in """ or " may span lines.
_INSTRUCTION = re.compile(r"(?P<name>\S+)(?:\s+(?P<rest>.*))?", re.DOTALL)
_QUOTES = ('"""', '"')


@dataclass(frozen=True, slots=True)
class FromLine:
    """A FROM instruction."""

    line: int
    value: str
    """A model, a GGUF file, or a directory of safetensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """A parsed Modelfile."""

    bases: tuple[FromLine, ...]
    """The FROM instructions. Ollama writes a second one for the projector of a model that sees images."""
    settings: ModelSettings
    warnings: tuple[str, ...] = ()
    """Messages about instructions that were ignored."""
    template_line: int | None = None
    """Line of the TEMPLATE instruction."""

    @property
    def base(self) -> str:
        """Value of the first FROM."""
        return self.bases[0].value


def parse_modelfile(text: str) -> Modelfile:
    """Parse a Modelfile. Raises ModelfileError, whose message has the line number."""
    bases: list[FromLine] = []
    template_line: int | None = None
    scalars: dict[str, str] = {}
    licenses: list[str] = []
    messages: list[dict[str, str]] = []
    parameters: dict[str, Any] = {}
    warnings: list[str] = []
    for line, name, value in _instructions(text):
        try:
            match name:
                case "FROM":
                    bases.append(FromLine(line, _from(value)))
                case "SYSTEM":
                    scalars["system"] = _unquoted(value)
                case "TEMPLATE":
                    scalars["template"], template_line = _unquoted(value), line
                case "LICENSE":
                    licenses.append(_unquoted(value))
                case "MESSAGE":
                    messages.append(_message(value))
                case "PARAMETER" if (reason := why_ignored(*_parameter(value))) is not None:
                    warnings.append(f"line {line} of the Modelfile: PARAMETER {_in_a_line(value)} {reason}; ignored")
                case "PARAMETER":
                    _add_parameter(parameters, *_parameter(value))
                case "ADAPTER":
                    raise ModelfileError(
                        "ADAPTER is not supported, and the model would answer differently without it; "
                        "merge the adapter into the model's weights"
                    )
                case _:
                    warnings.append(f"line {line} of the Modelfile: {name} is ignored: {_IGNORED[name]}")
        except ModelfileError as error:
            raise ModelfileError(f"line {line} of the Modelfile: {error}") from None
    if not bases:
        raise ModelfileError("the Modelfile has no FROM line; add FROM with a model, a GGUF file or a directory")
    settings = ModelSettings(parameters=parameters, license=licenses, messages=messages, **scalars)
    return Modelfile(bases=tuple(bases), settings=settings, warnings=tuple(warnings), template_line=template_line)


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
    if name not in (*INSTRUCTIONS, *_IGNORED, "ADAPTER"):
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


def _from(value: str) -> str:
    base = _unquoted(value)
    if not base:
        raise ModelfileError("FROM is empty; name a model, a GGUF file or a directory")
    return base


def _in_a_line(value: str) -> str:
    return " ".join(value.split())[:100]


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
