"""The form that an answer must have."""

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.constraints.text_rule import TextRule
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool, ToolChoice
from pagoda.models.output_formats.description import OutputFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """All that determines the constraint of an answer, except the vocabulary."""

    output_format: OutputFormat
    reasoning: ReasoningStart = ReasoningStart.NONE
    text: TextRule | None = None
    """Rule for the text; None if it is free."""
    tools: Sequence[Tool] = ()
    """The tools that are offered."""
    choice: ToolChoice = field(default_factory=ToolChoice)
    thinking_budget: int | None = None
    """Maximum number of tokens of the reasoning."""

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that may be called."""
        return [tool for tool in self.tools if self.choice.names is None or tool.name in self.choice.names]

    @property
    def origin(self) -> Hashable:
        """A key that only forms with the same constraint have in common."""
        offered = [(tool.name, tool.strict, tool.parameters) for tool in self.callable_tools]
        rule = None if self.text is None else (self.text.lark, dict(self.text.parts), self.text.triggers)
        digest = hashlib.sha256(orjson.dumps((offered, rule))).digest()
        return self.output_format, self.reasoning, digest, self.choice, self.thinking_budget
