"""The choice of the format in which a model writes reasoning and tool calls."""

import logging
from collections.abc import Container
from dataclasses import dataclass, replace

from pagoda.models.errors import ResponseTemplateError
from pagoda.models.formats.safetensors_file import read_json
from pagoda.models.model import Model, ModelFormat
from pagoda.models.output_formats.description import Marks, OutputFormat, described_formats
from pagoda.models.output_formats.response_template import read_response_template

logger = logging.getLogger(__name__)

_FALLBACK = "fallback"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatChoice:
    """A model's output format, and what its chat template knows of it."""

    format: OutputFormat
    template_has_tools: bool
    """True if the template writes the tools into the prompt. Otherwise the gateway describes them in the system message."""
    source: str
    """The source of the choice: `response_template`, `template` (marks in it or in the vocabulary) or `fallback`."""
    problem: str = ""
    """Reason to doubt the choice, if a call that the template writes is not read back; else empty."""


def choose_output_format(
    model: Model, template: str | None, *, reads_tools: bool = False, vocabulary: Container[str] = ()
) -> FormatChoice:
    """Return the model's format: from its response_template, else by marks, else the form that the gateway describes.

    `reads_tools` is True if the template has a variable for tools. `vocabulary` has the names of the model's special tokens.
    """
    found = _from_files(model)
    source = "response_template"
    if found is None:
        found, source = find_format(template or "", vocabulary), "template"
        found = found and _without_unknown_reasoning(found, template or "", vocabulary)
    fallback = described_formats()[_FALLBACK]
    if found is None:
        return FormatChoice(format=fallback, template_has_tools=False, source=_FALLBACK)
    if found.calls is None:
        # The model reasons, but the form of its calls is not known.
        described = replace(found, calls=fallback.calls)
        return FormatChoice(format=described, template_has_tools=False, source=source)
    return FormatChoice(format=found, template_has_tools=reads_tools, source=source)


def find_format(template: str, vocabulary: Container[str]) -> OutputFormat | None:
    """Return the format whose marks the template and the vocabulary show, or None."""
    fitting = [
        (marks.order, name)
        for name, output_format in described_formats().items()
        for marks in output_format.marks
        if _fits(marks, template, vocabulary)
    ]
    return described_formats()[max(fitting)[1]] if fitting else None


def _without_unknown_reasoning(found: OutputFormat, template: str, vocabulary: Container[str]) -> OutputFormat:
    """Return the format without reasoning if neither template nor vocabulary know its markers, as those of Qwen 2.5 do not."""
    if found.reasoning is None:
        return found
    markers = (found.reasoning.open.strip(), found.reasoning.close.strip())
    if any(marker in template or marker in vocabulary for marker in markers):
        return found
    return replace(found, reasoning=None)


def _fits(marks: Marks, template: str, vocabulary: Container[str]) -> bool:
    return (
        all(text in template for text in marks.template_has)
        and not any(text in template for text in marks.template_lacks)
        and all(token in vocabulary for token in marks.vocabulary_has)
    )


def _from_files(model: Model) -> OutputFormat | None:
    """Return the format that the checkpoint itself describes, if it does in a way that can be used."""
    path = model.path / "tokenizer_config.json"
    if model.format is ModelFormat.GGUF or not path.exists():
        return None
    described = read_json(path).get("response_template")
    if described is None:
        return None
    try:
        return read_response_template(described)
    except ResponseTemplateError as error:
        logger.info("response_template not used", extra={"model": model.name, "reason": str(error)})
        return None
