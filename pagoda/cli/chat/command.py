"""The words and options of `pagoda run`."""

from typing import Annotated

import typer

from pagoda.cli.failure import CommandError, failing_in_sentences
from pagoda.cli.options import Home, Server, api_key, complete_model, named_server, resolve_home


def register(app: typer.Typer) -> None:
    app.command(help="Chat with a model in the terminal, or have one prompt answered.")(run)


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            autocompletion=complete_model,
            help="A name or a path. (default: what the server has, else the default model)",
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Argument(help="Answer this and end. Piped input goes before it.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show timings after each answer.")] = False,
    nowordwrap: Annotated[bool, typer.Option("--nowordwrap", help="Do not wrap lines at words.")] = False,
    nohistory: Annotated[
        bool, typer.Option("--nohistory", envvar="PAGODA_NOHISTORY", help="Do not remember what is typed.")
    ] = False,
    keepalive: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long the model stays loaded, such as 5m.")
    ] = None,
    format: Annotated[str | None, typer.Option("--format", hidden=True)] = None,
    think: Annotated[bool, typer.Option("--think", hidden=True)] = False,
    hidethinking: Annotated[bool, typer.Option("--hidethinking", hidden=True)] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", hidden=True, help="Changes nothing: there is no registry.")
    ] = False,
    server: Server = None,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        if format is not None:
            raise CommandError("--format is not supported: answers cannot be held to a form yet; leave it out")
        if hidethinking:
            raise CommandError(
                "--hidethinking is not supported: thinking is not told apart from the answer yet; leave it out"
            )
        if think:
            raise CommandError("--think is not supported: thinking is not told apart from the answer; leave it out")

        from pagoda.cli.chat.answer import Style
        from pagoda.cli.chat.connection import Servers
        from pagoda.cli.chat.run import RunOptions, run_model

        options = RunOptions(
            model=model,
            prompt=" ".join(prompt or []),
            style=Style(wordwrap=not nowordwrap, verbose=verbose),
            keep_alive=keepalive,
            remembers=not nohistory,
        )
        status = run_model(options, Servers(home=resolve_home(home), address=named_server(server), api_key=api_key()))
    raise typer.Exit(status)
