"""Options of `pagoda run`. It starts a chat on a terminal without a prompt, and prints one answer otherwise."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pagoda.cli.failure import INTERRUPTED, CommandError, failing_in_sentences
from pagoda.cli.options import Home, Insecure, Server, api_key, complete_model, named_server, resolve_home

if TYPE_CHECKING:
    from pagoda.cli.chat.answer import Style
    from pagoda.cli.chat.connection import Connection, Servers


def register(app: typer.Typer) -> None:
    app.command(help="Chat with a model in the terminal, or answer one prompt.")(run)


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            autocompletion=complete_model,
            help="Name or path of a model. (default: the server's model, else the default model)",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Argument(help="Answer this and exit. Piped input goes before it.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show timings after each answer.")] = False,
    nowordwrap: Annotated[bool, typer.Option("--nowordwrap", help="Do not wrap lines at words.")] = False,
    nohistory: Annotated[
        bool, typer.Option("--nohistory", envvar="PAGODA_NOHISTORY", help="Do not save input in the history file.")
    ] = False,
    keepalive: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long the model stays loaded when unused, such as 5m.")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", hidden=True)] = None,
    think: Annotated[bool, typer.Option("--think", hidden=True)] = False,
    hidethinking: Annotated[bool, typer.Option("--hidethinking", hidden=True)] = False,
    insecure: Insecure = False,
    server: Server = None,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        if format is not None:
            raise CommandError("--format: structured output is not supported yet; omit it")
        if hidethinking:
            raise CommandError("--hidethinking: reasoning output is not separated from the answer yet; omit it")
        if think:
            raise CommandError("--think: reasoning output is not separated from the answer yet; omit it")

        from pagoda.cli.chat.answer import Style
        from pagoda.cli.chat.connection import Servers

        piped = "" if sys.stdin.isatty() else sys.stdin.read()
        wanted = " ".join(filter(None, (piped, " ".join(prompt or []))))
        servers = Servers(home=resolve_home(home), address=named_server(server), api_key=api_key(), insecure=insecure)
        connection = servers.connect(model)
        style = Style(wordwrap=not nowordwrap, verbose=verbose)
        status = 0
        if not wanted and sys.stdin.isatty() and sys.stdout.isatty():
            _chat(servers, connection, style, keepalive, remembers=not nohistory)
        else:
            status = _answer(connection, wanted, style, keepalive)
    raise typer.Exit(status)


def _answer(connection: "Connection", prompt: str, style: "Style", keep_alive: str | None) -> int:
    """Print the answer to the prompt, unless it is empty; return the exit status."""
    from pagoda.cli.chat.answer import print_answer

    try:
        if not prompt:
            return 0
        answer = print_answer(connection.api.generate(connection.model, prompt, keep_alive=keep_alive), style)
        return 0 if answer.end else INTERRUPTED
    finally:
        connection.close()


def _chat(
    servers: "Servers", connection: "Connection", style: "Style", keep_alive: str | None, *, remembers: bool
) -> None:
    # Imported only for a chat, because a single answer does not need the line editor.
    from pagoda.cli.chat.chat_loop import ChatLoop
    from pagoda.cli.chat.line_reader import TerminalReader
    from pagoda.cli.chat.session import Session

    reader = TerminalReader(servers.home / "state" / "chat_history", remembers=remembers)
    session = Session(connection, servers, reader, style, keep_alive)
    try:
        ChatLoop(session).run()
    finally:
        session.connection.close()
