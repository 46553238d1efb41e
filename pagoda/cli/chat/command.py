"""Options of `pagoda run`. It starts a chat on a terminal without a prompt, and prints one answer otherwise."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pagoda.cli.chat.answer_form import AnswerForm, RunCommand, parse_format, parse_think
from pagoda.cli.failure import INTERRUPTED, failing_in_sentences
from pagoda.cli.options import Home, Insecure, Server, api_key, complete_model, named_server, resolve_home

if TYPE_CHECKING:
    from pagoda.cli.chat.answer import Style
    from pagoda.cli.chat.connection import Connection, Servers


def register(app: typer.Typer) -> None:
    app.command(cls=RunCommand, help="Chat with a model in the terminal, or answer one prompt.")(run)


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
    format: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="Form of the answer: json, a JSON Schema, or a file with one."),
    ] = None,
    think: Annotated[
        str | None,
        typer.Option(
            "--think",
            metavar="[=LEVEL]",
            help="Let the model think first: --think, --think=false, or --think=low, medium, high or max.",
        ),
    ] = None,
    hidethinking: Annotated[bool, typer.Option("--hidethinking", help="Do not show what the model thinks.")] = False,
    insecure: Insecure = False,
    server: Server = None,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        form = AnswerForm(format=parse_format(format) if format else None, think=parse_think(think) if think else None)

        from pagoda.cli.chat.answer import Style
        from pagoda.cli.chat.connection import Servers

        piped = "" if sys.stdin.isatty() else sys.stdin.read()
        wanted = " ".join(filter(None, (piped, " ".join(prompt or []))))
        servers = Servers(home=resolve_home(home), address=named_server(server), api_key=api_key(), insecure=insecure)
        connection = servers.connect(model)
        style = Style(wordwrap=not nowordwrap, verbose=verbose, hides_thinking=hidethinking)
        status = 0
        if not wanted and sys.stdin.isatty() and sys.stdout.isatty():
            _chat(servers, connection, style, form, keepalive, remembers=not nohistory)
        else:
            status = _answer(connection, wanted, style, form, keepalive)
    raise typer.Exit(status)


def _answer(connection: "Connection", prompt: str, style: "Style", form: AnswerForm, keep_alive: str | None) -> int:
    """Print the answer to the prompt, unless it is empty; return the exit status."""
    from pagoda.cli.chat.answer import print_answer

    try:
        if not prompt:
            return 0
        lines = connection.api.generate(
            connection.model, prompt, keep_alive=keep_alive, format=form.format, think=form.think
        )
        return 0 if print_answer(lines, style).end else INTERRUPTED
    finally:
        connection.close()


def _chat(
    servers: "Servers",
    connection: "Connection",
    style: "Style",
    form: AnswerForm,
    keep_alive: str | None,
    *,
    remembers: bool,
) -> None:
    # Imported only for a chat, because a single answer does not need the line editor.
    from pagoda.cli.chat.chat_loop import ChatLoop
    from pagoda.cli.chat.line_reader import TerminalReader
    from pagoda.cli.chat.session import Session

    reader = TerminalReader(servers.home / "state" / "chat_history", remembers=remembers)
    session = Session(connection, servers, reader, style, keep_alive, form)
    try:
        ChatLoop(session).run()
    finally:
        session.connection.close()
