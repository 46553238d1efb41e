"""Chat templates in Go, which Ollama's models have: known ones are recognised by their text, and have a template in Jinja.

Go templates are not interpreted. Texts that differ only in ways that do not change the prompts are the same template.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources

from pagoda.models.ollama.known_templates import KNOWN, KnownTemplate

MAX_CHARACTERS = 1 << 14
"""Longest text that is compared with the known templates, which are all shorter."""

_SPACE = " \t\r\n"
_COMMENT = re.compile(r"\{\{(?P<left>-[ \t\r\n])?[ \t\r\n]*/\*.*?\*/[ \t\r\n]*?(?P<right>[ \t\r\n]-)?\}\}", re.DOTALL)
_ACTION = re.compile(r'\{\{(?P<left>-(?=[ \t\r\n]))?(?P<code>(?:"(?:\\.|[^"\\\n])*"|`[^`]*`|[^"`}]|\}(?!\}))*)\}\}')
_WORD = re.compile(r'(?:"(?:\\.|[^"\\\n])*"|`[^`]*`|[^ \t\r\n"`])+')
_PLAIN_PROMPT = [["action", ".Prompt"]]


def is_plain_prompt(go_template: str) -> bool:
    """Return True for `{{ .Prompt }}`, which Ollama shows for a model that has no template."""
    return _parts(go_template.strip()) == _PLAIN_PROMPT


@lru_cache(maxsize=64)
def jinja_of(go_template: str) -> str | None:
    """Return the Jinja template that writes the same prompts, or None for a template that is not known."""
    parts = _parts(go_template)
    known = None if parts is None else KNOWN.get(template_key(parts))
    return None if known is None else jinja_text(known)


def jinja_text(known: KnownTemplate) -> str:
    """Return a known template in Jinja."""
    variables = "".join(f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in known.variables.items())
    return _text("_turns") + variables + _text(known.family)


def template_key(parts: list[list[str]]) -> str:
    """Return the SHA-256, in hexadecimal, of a template's parts."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode(errors="surrogatepass")).hexdigest()


def _text(name: str) -> str:
    return (resources.files("pagoda.models.ollama") / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _parts(go_template: str) -> list[list[str]] | None:
    """Return the template's texts and actions as ["text", …] and ["action", …], or None if it is too long or malformed.

    Trim markers are applied, comments are removed, and spaces between the words of an action count as one.
    """
    if len(go_template) > MAX_CHARACTERS:
        return None
    parts: list[list[str]] = []
    try:
        for kind, value in _raw_parts(go_template.replace("\r\n", "\n")):
            if kind == "text" and parts and parts[-1][0] == "text":
                parts[-1][1] += value
            elif value or kind == "action":
                parts.append([kind, value])
    except _MalformedError:
        return None
    return parts


class _MalformedError(ValueError):
    """The text is not a Go template."""


def _raw_parts(text: str) -> Iterator[tuple[str, str]]:
    at, is_trimmed = 0, False
    while True:
        start = text.find("{{", at)
        before = text[at:] if start < 0 else text[at:start]
        before = before.lstrip(_SPACE) if is_trimmed else before
        if start < 0:
            yield "text", before
            return
        match = _COMMENT.match(text, start) or _ACTION.match(text, start)
        if match is None:
            raise _MalformedError
        yield "text", before.rstrip(_SPACE) if match["left"] else before
        code = match.groupdict().get("code")
        if code is None:
            is_trimmed = bool(match["right"])
        else:
            is_trimmed = len(code) > 1 and code[-1] == "-" and code[-2] in _SPACE
            yield "action", " ".join(_WORD.findall(code[:-1] if is_trimmed else code))
        at = match.end()
