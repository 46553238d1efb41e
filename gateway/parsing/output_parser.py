"""The parser of a model's output: tokens in, parts of the answer out. What does not parse as a call is text of the answer."""

import codecs
from collections.abc import Sequence

from gateway.parsing.answer_reader import AnswerReader
from gateway.parsing.part_writer import PartWriter
from gateway.parsing.parts import AnswerPart, ReasoningPart
from gateway.parsing.syntax import syntax_of
from gateway.parsing.text_reader import TextReader
from gateway.prompts.reasoning_start import ReasoningStart
from gateway.prompts.tools import Tool
from pagoda.models.output_formats.description import OutputFormat
from pagoda.text.tokenizer import Tokenizer


class OutputParser:
    """The parser of one sample's output.

    Joined, its parts are the same however the output is cut into tokens. Each byte of the output is in a part, or in a marker of
    the format with its whitespace. No output raises an error.
    """

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
        syntax = syntax_of(output_format, tokenizer)
        self._token_bytes = tokenizer.token_bytes if skip_special_tokens else tokenizer.bytes_with_special
        self._plain_bytes = tokenizer.token_bytes
        self._control = syntax.control
        self._plain_texts = syntax.plain_texts
        self._attention = syntax.attention
        self._held = b""
        """Beginning of a character that is not complete yet."""
        calls = syntax.format.calls
        self._reader = TextReader()
        self._writer = PartWriter(
            syntax.without_names if skip_special_tokens else syntax.names, id_length=calls.id_length if calls else 0
        )
        self._answer = AnswerReader(
            syntax.format, self._reader, self._writer, reasoning=reasoning, tools={tool.name: tool for tool in tools}
        )
        self._steps = self._answer.read()
        next(self._steps)
        self._num_waiting_tokens = 0
        """Number of tokens since the beginning of what may be a marker."""
        self.num_reasoning_tokens = 0
        """Number of tokens of the reasoning so far, with its markers."""

    def add_token(self, token_id: int) -> list[AnswerPart]:
        """Return the parts that are certain after this token. Text consists of complete characters."""
        kind = self._answer.plain_kind
        if kind is not None and not self._held and (text := self._plain_texts.get(token_id)) is not None:
            if kind is ReasoningPart:
                self.num_reasoning_tokens += 1
            return [kind(text)]
        was_reasoning = self._answer.is_reasoning
        if text := self._decode(token_id):
            self._reader.text += text
            next(self._steps, None)
        self._count_reasoning(was_reasoning)
        return self._writer.take_parts()

    def finish(self) -> list[AnswerPart]:
        """Return the rest, at the end of the output."""
        self._reader.text += self._held.decode("utf-8", "replace")
        self._held = b""
        self._reader.has_ended = True
        for _ in self._steps:
            pass
        return self._writer.take_parts()

    def _decode(self, token_id: int) -> str:
        """Return the complete characters after this token. A control token of the format is one character."""
        if (character := self._control.get(token_id)) is not None:
            held, self._held = self._held, b""
            return held.decode("utf-8", "replace") + character
        data = self._held + self._token_bytes(token_id)
        text, num_decoded = codecs.utf_8_decode(data, "replace", False)
        self._held = data[num_decoded:]
        is_whole = not self._held and data == self._plain_bytes(token_id)
        if text and is_whole and not text[-1].isspace() and self._attention.isdisjoint(text):
            self._plain_texts[token_id] = text
        return text

    def _count_reasoning(self, was_reasoning: bool) -> None:
        if self._answer.is_reasoning and not was_reasoning:
            self.num_reasoning_tokens += self._num_waiting_tokens
        self.num_reasoning_tokens += was_reasoning or self._answer.is_reasoning
        self._num_waiting_tokens = self._num_waiting_tokens + 1 if self._reader.text else 0
