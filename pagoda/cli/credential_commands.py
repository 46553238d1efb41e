"""Options of the commands that make secrets: `pagoda key` for API keys of clients, `pagoda cluster-token` for tiers.

`pagoda key` changes a file (see keys.py), whether or not a gateway runs. A running gateway reads the file again when it changes.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pagoda.cli.failure import CommandError, failing_in_sentences
from pagoda.cli.options import AsJSON, Home, resolve_home

KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys-file",
        envvar="PAGODA_GATEWAY_KEYS_FILE",
        help="File that lists the API keys. (default: HOME/keys.json)",
    ),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the key in lists and logs.")]
TokensWanted = Annotated[
    list[str],
    typer.Argument(
        metavar="ROLE[=FILE]...",
        help="ROLE is gateway, worker or client. Without FILE the token is printed. An existing file is kept.",
    ),
]


def register(app: typer.Typer) -> None:
    keys = typer.Typer(no_args_is_help=True)
    keys.command(help="Create a key and print it. It cannot be shown again.")(create)
    keys.command("list", help="List the keys, without their secrets.")(list_)
    keys.command("ls", hidden=True, help="The same as list.")(list_)
    keys.command(help="Revoke a key immediately and permanently.")(revoke)
    app.add_typer(keys, name="key", help="Create, list and revoke the API keys of a gateway.")
    app.command("cluster-token", help="Create the tokens that gateways and workers present to a scheduler over TCP.")(
        cluster_token
    )


def create(
    name: KeyName,
    tenant: Annotated[str, typer.Option(help="Tenant that the key belongs to. A tenant may have many.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="inference|admin|priority", help="What the key allows. Repeatable. (default: inference)"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Lifetime, such as 12h, 30d or 8w. (default: unlimited)")
    ] = None,
    isolated: Annotated[bool, typer.Option("--isolated", help="Share no cached prefixes with other tenants.")] = False,
    priority_floor: Annotated[
        int, typer.Option(help="Lowest `priority` number (most urgent) of its requests without the scope priority.")
    ] = 0,
    as_json: AsJSON = False,
    keys_file: KeysFile = None,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.keys import KeyRequest, create_key, facts

        request = KeyRequest(
            name=name,
            tenant=tenant,
            scopes=scope or ["inference"],
            expires=expires,
            isolated=isolated,
            priority_floor=priority_floor,
        )
        file = _file(keys_file, home)
        key, entry = create_key(file, request)
        print(json.dumps({"key": key, **facts(entry)}) if as_json else key)
        _say(f"Added '{name}' to {file}. Copy the key now: only its digest is stored.")


def list_(as_json: AsJSON = False, keys_file: KeysFile = None, home: Home = None) -> None:
    with failing_in_sentences():
        from pagoda.cli.keys import facts, is_open_to_others, keys_page, list_keys

        file = _file(keys_file, home)
        entries = list_keys(file)
        print(json.dumps({"keys": [facts(entry) for entry in entries]}) if as_json else keys_page(entries))
        if is_open_to_others(file):
            _say(f"Warning: other users of this machine may read {file}; restrict it: chmod 600 {file}")


def revoke(name: KeyName, as_json: AsJSON = False, keys_file: KeysFile = None, home: Home = None) -> None:
    with failing_in_sentences():
        from pagoda.cli.keys import facts, revoke_key

        entry = revoke_key(_file(keys_file, home), name)
        print(json.dumps(facts(entry)) if as_json else f"revoked '{name}'")


def cluster_token(wanted: TokensWanted) -> None:
    with failing_in_sentences():
        from pagoda.rpc.cluster_tokens import Role, make_token_file, new_token

        for each in wanted:
            word, _, file = each.partition("=")
            if word not in tuple(Role):
                raise CommandError(
                    f"unknown role {word!r} (allowed: {', '.join(Role)}; example: worker=/etc/pagoda/worker.token)"
                )
            if not file:
                print(new_token(Role(word)))
                continue
            path = Path(file).expanduser()
            was_there = path.exists()
            make_token_file(path, Role(word))
            _say(f"{path} {'exists already; kept' if was_there else 'created'}")


def _file(keys_file: Path | None, home: Path | None) -> Path:
    from pagoda.api_keys.key_file import KEYS_FILE

    return keys_file.expanduser().absolute() if keys_file else resolve_home(home) / KEYS_FILE


def _say(line: str) -> None:
    print(line, file=sys.stderr)
