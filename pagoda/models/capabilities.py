"""The capabilities of a model on disk, as Ollama names them, and the format in which it writes reasoning and tool calls."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError
from pagoda.models.formats.fill_tokens import find_fill_tokens, read_token_names
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.output_formats.choice import FormatChoice, choose_output_format

_UNKNOWN = "fallback"
"""The source of a format that nothing in the model's files names."""
_TOOL_VARIABLE = re.compile(r"\b(tools|xml_tools)\b")
_THINKING_VARIABLE = re.compile(r"\b(enable_thinking|thinking)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The capabilities of a model."""

    names: tuple[str, ...]
    """Names such as `completion`, `tools`, `insert` and `thinking`."""
    output: FormatChoice | None
    """The format of answers to chats; None for a model without a chat template."""
    template: str = ""
    """The chat template."""

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of /api/show. `output_format` is an extension of Pagoda."""
        fields: dict[str, Any] = {"capabilities": list(self.names)}
        if self.output is not None:
            fields["output_format"] = {"name": self.output.format.name, "source": self.output.source}
            if self.output.problem:
                fields["output_format"]["problem"] = self.output.problem
        return fields


def read_capabilities(model: Model, settings: ModelSettings, output: FormatChoice | None = None) -> Capabilities:
    """Return the capabilities of a model with these settings.

    `output` is the format that a gateway has chosen and proven. Without it, the files' marks count. These capabilities are kept,
    because they need all of the vocabulary.
    """
    read = _read(model, settings.template)
    if output is None or read.output is None:
        return read
    return Capabilities(names=_names(read.template, output, fills="insert" in read.names), output=output)


@lru_cache(maxsize=256)
def _read(model: Model, own_template: str) -> Capabilities:
    try:
        template = choose_chat_template(model, ModelSettings(template=own_template)).text
    except ChatTemplateChoiceError:
        template = None
    ids, metadata = read_token_names(model)
    output = None
    if template is not None:
        reads_tools = _TOOL_VARIABLE.search(template) is not None
        output = choose_output_format(model, template, reads_tools=reads_tools, vocabulary=ids)
    names = _names(template or "", output, fills=find_fill_tokens(ids, metadata) is not None)
    return Capabilities(names=names, output=output, template=template or "")


def _names(template: str, output: FormatChoice | None, *, fills: bool) -> tuple[str, ...]:
    able = {
        "completion": True,
        "tools": output is not None and output.template_has_tools and not output.problem,
        "insert": fills,
        "thinking": output is not None and _thinks(output, template),
    }
    return tuple(name for name, is_able in able.items() if is_able)


def _thinks(output: FormatChoice, template: str) -> bool:
    has_markers = output.source != _UNKNOWN and output.format.reasoning is not None
    return has_markers or _THINKING_VARIABLE.search(template) is not None
