"""Commands that users of other tools expect: `help`, `version`, and Ollama's commands that Pagoda does not have.

Each of the latter fails with an error that says what to do instead.
"""

from collections.abc import Callable
from typing import Annotated

import typer
from typer.core import TyperGroup

from pagoda.cli.failure import fail
from pagoda.cli.tier_programs import become_tier
from pagoda.distribution import VERSION

_ABSENT = {
    "push": "Pagoda has no registry; copy the model's files, or write its Modelfile: pagoda show NAME --modelfile",
    "signin": "Pagoda has no accounts; to make an API key: pagoda key create NAME",
    "signout": "Pagoda has no accounts; to revoke an API key: pagoda key revoke NAME",
    "launch": "Pagoda does not start clients; configure them with the address that pagoda serve prints",
}
_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    app.command("help", help="Show help for a command.")(help_)
    app.command(help="Print the version.")(version)
    for name, sentence in _ABSENT.items():
        app.command(name, hidden=True, context_settings=_ANY_ARGUMENTS)(_absent(sentence))


def help_(
    context: typer.Context,
    command: Annotated[list[str] | None, typer.Argument(metavar="COMMAND", show_default=False)] = None,
) -> None:
    shown = context.parent
    assert shown is not None
    for word in command or ():
        found = shown.command.get_command(shown, word) if isinstance(shown.command, TyperGroup) else None
        if found is None:
            fail(f"unknown command '{' '.join(command or ())}'; for a list: pagoda help")
        shown = type(context)(found, info_name=word, parent=shown)
        if not found.context_settings.get("help_option_names", ["--help"]):
            become_tier(word, ["--help"])
    typer.echo(shown.get_help())


def version() -> None:
    typer.echo(f"pagoda {VERSION}")


def _absent(sentence: str) -> Callable[[], None]:
    def absent() -> None:
        fail(sentence)

    return absent
