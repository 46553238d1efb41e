"""A call that is being read."""

from gateway.parsing.part_writer import PartWriter
from gateway.parsing.parts import ContentPart
from gateway.parsing.text_reader import TextReader
from gateway.prompts.tools import Tool


class OpenCall:
    """A call that is being read. It is reported as soon as its arguments begin."""

    def __init__(self, reader: TextReader, writer: PartWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.name = ""
        self.index = ""
        """The number that the model gave it, if it did."""
        self.own_id = ""
        """The id that the model gave it, if it did."""
        self.tool: Tool | None = None
        """The tool of this name, if it is offered."""
        self._stray = ""
        self.has_begun = False

    def begin(self) -> None:
        """Report the call. What was read until now is not text of the answer."""
        if not self.has_begun:
            self.has_begun = True
            self._reader.report()
            self._writer.begin_call(self.name, self.own_id)

    def begin_object(self) -> None:
        """Report the call, and begin its arguments."""
        if not self.has_begun:
            self.begin()
            self.add_arguments("{")

    def add_arguments(self, text: str) -> None:
        self._writer.add_arguments(text)

    def add_stray(self, text: str) -> None:
        """Keep text inside the call that is no part of it. It becomes text of the answer after the call."""
        self._stray += text
        if self.has_begun:
            self._reader.report()  # else it becomes text with all that was read

    def end(self) -> None:
        """End the call, complete or broken."""
        if self.has_begun:
            self._writer.add_text(ContentPart, self._stray)
            self._stray = ""
