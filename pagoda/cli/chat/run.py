"""`pagoda run`: a chat where there is a terminal and no prompt, one answer otherwise."""

import sys
from dataclasses import dataclass
from pathlib import Path

from pagoda.cli.chat.answer import Style, print_answer
from pagoda.cli.chat.connection import Connection, Servers
from pagoda.cli.failure import INTERRUPTED


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    model: str | None
    prompt: str
    style: Style
    keep_alive: str | None
    remembers: bool


def run_model(options: RunOptions, servers: Servers) -> int:
    """The exit status."""
    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    prompt = " ".join(filter(None, (piped, options.prompt)))
    interactive = not prompt and sys.stdin.isatty() and sys.stdout.isatty()
    connection = servers.connect(options.model)
    if interactive:
        _chat(options, servers, connection)
        return 0
    try:
        return _answer(options, connection, prompt) if prompt else 0
    finally:
        connection.close()


def _answer(options: RunOptions, connection: Connection, prompt: str) -> int:
    lines = connection.api.generate(connection.model, prompt, keep_alive=options.keep_alive)
    answer = print_answer(lines, options.style)
    return 0 if answer.end else INTERRUPTED


def _chat(options: RunOptions, servers: Servers, connection: Connection) -> None:
    from pagoda.cli.chat.chat_loop import ChatLoop
    from pagoda.cli.chat.line_reader import TerminalReader
    from pagoda.cli.chat.session import Session

    reader = TerminalReader(_history(servers.home), remembers=options.remembers)
    session = Session(connection, servers, reader, options.style, options.keep_alive)
    try:
        ChatLoop(session).run()
    finally:
        session.connection.close()


def _history(home: Path) -> Path:
    return home / "state" / "chat_history"
