"""The parser of a model's output: tokens in, parts of the answer out. What does not parse as a call is text of the answer."""

from collections.abc import Sequence

from gateway.parsing.parts import AnswerPart, ContentPart
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import OutputFormat
from pagoda.text.tokenizer import Tokenizer


class OutputParser:
    """The parser of one sample's output."""

    def __init__(
        self,
        output_format: OutputFormat,
        tokenizer: Tokenizer,
        *,
        reasoning: ReasoningStart,
        tools: Sequence[Tool] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        """Take the tools that may be called. Without tools, calls are text."""
        self._tokenizer = tokenizer
        self._held = b""
        self.num_reasoning_tokens = 0
        """Number of tokens of the reasoning so far, with its markers."""

    def add_token(self, token_id: int) -> list[AnswerPart]:
        """Return the parts that are certain after this token. Text consists of complete characters."""
        return [ContentPart(self._tokenizer.token_bytes(token_id).decode("utf-8", "replace"))]

    def finish(self) -> list[AnswerPart]:
        """Return the rest, at the end of the output."""
        return []
