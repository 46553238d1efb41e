"""The tools that a client offers to a model, and which of them the model has to call."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """JSON Schema of the arguments, an object. Empty: there are none."""
    strict: bool = False
    """True if the arguments must obey the schema. Arguments that a grammar enforces always do."""
    schema_field: str = "tools"
    """The field of the request that has the schema, for errors, such as `tools.0.function.parameters`."""
    given: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The tool in OpenAI's form, as templates get it: {"type": "function", "function": {...}}."""


class ToolMode(StrEnum):
    """The number of calls that an answer may have."""

    NONE = "none"
    AUTO = "auto"
    """The model decides."""
    REQUIRED = "required"
    """The model makes at least one call, of the tools in ToolChoice.names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolChoice:
    """The client's choice among its tools."""

    mode: ToolMode = ToolMode.AUTO
    names: frozenset[str] | None = None
    """Names of the tools that may be called; None for all."""
    parallel: bool = True
    """True if an answer may have several calls."""
