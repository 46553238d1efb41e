"""The page that `pagoda show` and `/show info` print about a model: sections of indented columns, as Ollama's.

It takes the object of /api/show.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pagoda.cli import human

_NUM_TEXT_LINES = 2
# A list longer than this, such as the vocabulary, is shown as its length.
_LONGEST_LIST = 5
Rows = Sequence[Sequence[str]]


def show_page(shown: dict[str, Any], *, verbose: bool = False) -> str:
    sections = [(title, rows) for title, rows in _sections(shown, verbose) if rows]
    return "\n".join(f"  {title}\n{_indented(rows)}" for title, rows in sections)


def _sections(shown: dict[str, Any], verbose: bool) -> Iterator[tuple[str, Rows]]:
    yield "Model", list(_model_rows(shown))
    yield "Capabilities", [[capability] for capability in shown.get("capabilities") or []]
    yield "Parameters", [line.split(maxsplit=1) for line in (shown.get("parameters") or "").splitlines() if line]
    if verbose:
        yield "Metadata", [[key, _short(value)] for key, value in sorted((shown.get("model_info") or {}).items())]
        yield "Tensors", [[each["name"], each["type"], str(each["shape"])] for each in shown.get("tensors") or []]
    yield "System", _first_lines(shown.get("system") or "")
    yield "License", _first_lines(shown.get("license") or "")


def _model_rows(shown: dict[str, Any]) -> Iterator[list[str]]:
    info, details = shown.get("model_info") or {}, shown.get("details") or {}
    family = info.get("general.architecture") or details.get("family", "")
    facts = (
        ("architecture", family),
        ("parameters", details.get("parameter_size")),
        ("context length", info.get(f"{family}.context_length")),
        ("embedding length", info.get(f"{family}.embedding_length")),
        ("quantization", details.get("quantization_level")),
    )
    yield from ([name, str(value)] for name, value in facts if value)


def _first_lines(text: str) -> Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [[line] for line in lines[:_NUM_TEXT_LINES] + ["..."] * (len(lines) > _NUM_TEXT_LINES)]


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > _LONGEST_LIST:
        return f"[{len(value)} values]"
    return " ".join(str(value).split())


def _indented(rows: Rows) -> str:
    return "".join(f"    {line}\n" for line in human.table(rows).splitlines())
