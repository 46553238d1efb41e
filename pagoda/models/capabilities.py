"""The capabilities of a model on disk, as Ollama names them, and the format in which it writes reasoning and tool calls."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pagoda.models.chat_template_choice import choose_chat_template
from pagoda.models.errors import ChatTemplateChoiceError
from pagoda.models.formats.fill_tokens import read_fill_tokens
from pagoda.models.model import Model
from pagoda.models.model_settings import ModelSettings
from pagoda.models.output_formats.choice import FormatChoice, choose_output_format

_UNKNOWN = "fallback"
"""The source of a format that nothing in the model's files names."""
_THINKING_VARIABLE = re.compile(r"\b(enable_thinking|thinking)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The capabilities of a model."""

    names: tuple[str, ...]
    """Names such as `completion`, `tools`, `insert` and `thinking`."""
    output: FormatChoice | None
    """The format of answers to chats; None for a model without a chat template."""

    def as_json(self) -> Mapping[str, Any]:
        """Return the fields of /api/show. `output_format` is an extension of Pagoda."""
        fields: dict[str, Any] = {"capabilities": list(self.names)}
        if self.output is not None:
            fields["output_format"] = {"name": self.output.format.name, "source": self.output.source}
        return fields


def read_capabilities(model: Model, settings: ModelSettings) -> Capabilities:
    """Return the capabilities of a model with these settings. They are kept, because they need all of the vocabulary."""
    return _read(model, settings.template)


@lru_cache(maxsize=256)
def _read(model: Model, own_template: str) -> Capabilities:
    try:
        template = choose_chat_template(model, ModelSettings(template=own_template)).text
    except ChatTemplateChoiceError:
        template = None
    output = None if template is None else choose_output_format(model, template)
    able = {
        "completion": True,
        "tools": output is not None and _has_tools(output),
        "insert": read_fill_tokens(model) is not None,
        "thinking": output is not None and _thinks(output, template or ""),
    }
    return Capabilities(names=tuple(name for name, is_able in able.items() if is_able), output=output)


def _has_tools(output: FormatChoice) -> bool:
    return output.template_has_tools and output.source != _UNKNOWN and output.format.calls is not None


def _thinks(output: FormatChoice, template: str) -> bool:
    has_markers = output.source != _UNKNOWN and output.format.reasoning is not None
    return has_markers or _THINKING_VARIABLE.search(template) is not None
