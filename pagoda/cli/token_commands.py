"""The words of `pagoda cluster-token`: tokens printed, or written to files that each tier is told of."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from pagoda.cli.failure import CommandError, failing_in_sentences

Wanted = Annotated[
    list[str],
    typer.Argument(
        metavar="ROLE[=FILE]...",
        help="gateway, worker or client. Without a file the token is printed; a file that is there is left as it is.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(
        "cluster-token", help="Make the tokens by which schedulers that are reached over TCP know gateways and workers."
    )(cluster_token)


def cluster_token(wanted: Wanted) -> None:
    with failing_in_sentences():
        from pagoda.rpc.cluster_tokens import Role, make_token_file, new_token

        for each in wanted:
            word, _, file = each.partition("=")
            if word not in tuple(Role):
                raise CommandError(
                    f"unknown role {word!r}: it is {', '.join(Role)}, such as worker=/etc/pagoda/worker.token"
                )
            if not file:
                print(new_token(Role(word)))
                continue
            path = Path(file).expanduser()
            was_there = path.exists()
            make_token_file(path, Role(word))
            print(f"{path} {'was there already' if was_there else 'made'}", file=sys.stderr)
