"""The words and options of the commands that make secrets: `pagoda key` for clients' API keys, `pagoda cluster-token` for tiers.

What `key` does is in keys.py, imported when a command runs. It works on a file, whether or not a gateway runs; one that does
reads it again by itself.
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
        help="The file that lists the API keys. (default: HOME/keys.json)",
    ),
]
KeyName = Annotated[str, typer.Argument(metavar="NAME", help="What lists and logs call the key.")]
TokensWanted = Annotated[
    list[str],
    typer.Argument(
        metavar="ROLE[=FILE]...",
        help="gateway, worker or client. Without a file the token is printed; a file that is there is left as it is.",
    ),
]


def register(app: typer.Typer) -> None:
    keys = typer.Typer(no_args_is_help=True)
    keys.command(help="Make a key and print it, this once.")(create)
    keys.command("list", help="List the keys: what they are for, not what they are.")(list_)
    keys.command("ls", hidden=True, help="The same as list.")(list_)
    keys.command(help="Make a key invalid, at once and for good.")(revoke)
    app.add_typer(keys, name="key", help="Make, list and revoke the API keys of a gateway.")
    app.command(
        "cluster-token", help="Make the tokens by which schedulers that are reached over TCP know gateways and workers."
    )(cluster_token)


def create(
    name: KeyName,
    tenant: Annotated[str, typer.Option(help="Whose key it is. Several may be one tenant's.")] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="inference|admin|priority", help="What it allows; may be repeated. (default: inference)"),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Such as 12h, 30d or 8w. (default: never)")
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Keep the tenant's cached prefixes apart from everyone else's.")
    ] = False,
    priority_floor: Annotated[
        int, typer.Option(help="The most urgent priority of its requests, unless it has that scope. Lower goes first.")
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
        _say(f"'{name}' is in {file}. It is shown this once; what is kept is its digest.")


def list_(as_json: AsJSON = False, keys_file: KeysFile = None, home: Home = None) -> None:
    with failing_in_sentences():
        from pagoda.cli.keys import facts, is_open_to_others, keys_page, list_keys

        file = _file(keys_file, home)
        entries = list_keys(file)
        print(json.dumps({"keys": [facts(entry) for entry in entries]}) if as_json else keys_page(entries))
        if is_open_to_others(file):
            _say(f"Warning: other users of this machine may open {file}; keep them out with: chmod 600 {file}")


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
                    f"unknown role {word!r}: it is {', '.join(Role)}, such as worker=/etc/pagoda/worker.token"
                )
            if not file:
                print(new_token(Role(word)))
                continue
            path = Path(file).expanduser()
            was_there = path.exists()
            make_token_file(path, Role(word))
            _say(f"{path} {'was there already' if was_there else 'made'}")


def _file(keys_file: Path | None, home: Path | None) -> Path:
    from pagoda.api_keys.key_file import KEYS_FILE

    return keys_file.expanduser().absolute() if keys_file else resolve_home(home) / KEYS_FILE


def _say(line: str) -> None:
    print(line, file=sys.stderr)
