"""The loop of a chat. It reads entries, and runs them as commands or sends them to the model, until the user leaves.

line_reader.py reads from the terminal; connection.py chooses the server.
"""

import sys

from pagoda.cli.chat.commands import Commands
from pagoda.cli.chat.line_reader import Entry, read_entry
from pagoda.cli.chat.session import Session
from pagoda.cli.failure import CommandError
from pagoda.models.errors import ModelError


class ChatLoop:
    """The loop of one chat."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._commands = Commands(session)

    def run(self) -> None:
        """Run the chat until /bye or Ctrl-D."""
        self._session.print_opening()
        while self._goes_on():
            pass

    def _goes_on(self) -> bool:
        """Read and answer one entry; return False to leave the chat. A failure or Ctrl-C ends the entry, not the chat."""
        try:
            entry = read_entry(self._session.reader)
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
            self._session.ask(entry.text)
        return True
