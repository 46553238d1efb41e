"""The chat itself: read an entry, obey a command or ask the model, until the user leaves.

Knows nothing about keys and cursors (line_reader.py) or about which server answers (connection.py).
"""

import sys
from dataclasses import replace

from pagoda.cli.chat.answer import Style, print_answer
from pagoda.cli.chat.commands import Commands
from pagoda.cli.chat.connection import Connection, Servers
from pagoda.cli.chat.conversation import Conversation
from pagoda.cli.chat.line_reader import LineReader
from pagoda.cli.chat.multiline import PROMPT, Entry, read_entry
from pagoda.cli.chat.wrapping import WordWrap
from pagoda.cli.failure import CommandError
from pagoda.models.errors import ModelError


class Session:
    def __init__(
        self, connection: Connection, servers: Servers, reader: LineReader, style: Style, keep_alive: str | None = None
    ) -> None:
        self.connection = connection
        self.servers = servers
        self.reader = reader
        self.style = style
        self.conversation = Conversation(connection.model)
        self._keep_alive = keep_alive
        self._commands = Commands(self)

    def run(self) -> None:
        """Until /bye or Ctrl-D."""
        self._print_opening()
        while self._goes_on():
            pass

    def _goes_on(self) -> bool:
        """After one entry, which it reads and answers. A failure or Ctrl-C ends the entry, not the chat."""
        try:
            entry = read_entry(self.reader)
        except EOFError:
            print()
            return False
        except KeyboardInterrupt:
            print("\nUse Ctrl + d or /bye to exit.")
            return True
        try:
            return self._answered(entry)
        except (CommandError, ModelError) as error:
            print(f"Error: {error}\n", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print()
        return True

    def _answered(self, entry: Entry) -> bool:
        if entry.is_command:
            return not self._commands.obey(entry.text)
        if entry.text:
            self._ask(entry.text)
        return True

    def switch_model(self, name: str) -> None:
        """Another model, and a conversation of its own. The old one stays where the new one cannot be had."""
        connection = self.servers.connect(name)
        self.connection.close()
        self.connection = connection
        self.conversation = Conversation(connection.model)
        self._print_opening()

    def set_style(self, **changes: bool) -> None:
        self.style = replace(self.style, **changes)

    def _ask(self, text: str) -> None:
        conversation, api = self.conversation, self.connection.api
        if self._can_chat:
            lines = api.chat(
                conversation.model, conversation.asking(text), conversation.options, keep_alive=self._keep_alive
            )
        else:
            lines = api.generate(conversation.model, text, conversation.options, keep_alive=self._keep_alive)
        answer = print_answer(lines, self.style)
        conversation.remember(text, answer.text)

    @property
    def _can_chat(self) -> bool:
        """A base model has no template for a conversation; it goes on with a text."""
        return bool(self.connection.shown.get("template"))

    def _print_opening(self) -> None:
        """The messages that a model brings along; the server puts them before ours."""
        if not self._can_chat:
            print(f"{self.connection.model} has no chat template: it goes on with each text that you give it.\n")
        for message in self.connection.shown.get("messages") or []:
            text = WordWrap(None).push(str(message.get("content", "")))
            if message.get("role") == "user":
                print(f"{PROMPT}{text}")
            elif message.get("role") == "assistant":
                print(f"{text}\n")
