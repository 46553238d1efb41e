"""Options of the commands about models: list, pull, show, rm, cp, create, ps, stop.

Their implementation is in store_commands.py, server_commands.py and fetch.py, which are imported when a command runs.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pagoda.cli.failure import CommandError, failing_in_sentences
from pagoda.cli.options import AsJSON, Home, Insecure, Server, api_key, complete_model, named_server, resolve_home
from pagoda.models.catalogue import DEFAULT_MODEL

ModelName = Annotated[str, typer.Argument(metavar="MODEL", autocompletion=complete_model, help="Name of a model.")]


def register(app: typer.Typer) -> None:
    app.command("list", help="List the models on this machine.")(list_)
    app.command("ls", hidden=True, help="The same as list.")(list_)
    app.command(help="Download a model, or its newest version.")(pull)
    app.command(help="Show details of a model.")(show)
    app.command(help="List the models that a server has loaded.")(ps)
    app.command(help="Unload a model from a server.")(stop)
    app.command(help="Remove models from this machine.")(rm)
    app.command(help="Copy a model.")(cp)
    app.command(help="Create a model from a Modelfile, a GGUF file or a directory of safetensors.")(create)


def list_(
    prefix: Annotated[str, typer.Argument(help="Beginning of the names to list.", autocompletion=complete_model)] = "",
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.store_commands import list_models, list_page

        models = list_models(resolve_home(home), prefix)
        print(_json({"models": models}) if as_json else list_page(models))


def pull(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model: of Ollama's library, such as qwen3:0.6b, or of the Hugging Face hub, ORG/REPO.",
            autocompletion=complete_model,
        ),
    ] = DEFAULT_MODEL,
    insecure: Insecure = False,
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.fetch import fetch_model
        from pagoda.models.ollama_objects import listed

        fetched = fetch_model(resolve_home(home), model, newest=True, insecure=insecure)
        print(
            _json(listed(fetched) | {"path": str(fetched.path)}) if as_json else f"{fetched.name} is at {fetched.path}"
        )


def show(
    model: Annotated[str, typer.Argument(help="Name or path of a model.", autocompletion=complete_model)],
    license: Annotated[bool, typer.Option("--license", help="Show only the license.")] = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Show a Modelfile that makes the model.")] = False,
    parameters: Annotated[bool, typer.Option("--parameters", help="Show only the parameters.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Show only the system message.")] = False,
    template: Annotated[bool, typer.Option("--template", help="Show only the chat template.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show metadata and tensors too.")] = False,
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    parts = {
        "license": license,
        "modelfile": modelfile,
        "parameters": parameters,
        "system": system,
        "template": template,
    }
    wanted = [name for name, is_wanted in parts.items() if is_wanted]
    with failing_in_sentences():
        from pagoda.cli.store_commands import show_model, show_page

        if len(wanted) > 1:
            raise CommandError(f"use only one of {', '.join(f'--{name}' for name in parts)}")
        shown = show_model(resolve_home(home), model, verbose=verbose)
        if as_json:
            print(_json(shown))
        else:
            print(shown[wanted[0]] if wanted else show_page(shown, verbose=verbose))


def ps(server: Server = None, as_json: AsJSON = False) -> None:
    with failing_in_sentences():
        from pagoda.cli.ollama_api import DEFAULT_SERVER, OllamaAPI, server_url
        from pagoda.cli.server_commands import queue_page, running_page

        with OllamaAPI(server_url(named_server(server) or DEFAULT_SERVER), api_key()) as api:
            models, queue = api.running(), api.queue()
        if as_json:
            print(_json({"models": models} | ({"queue": queue} if queue else {})))
        else:
            print(running_page(models))
            if queue and (page := queue_page(queue)):
                print(page)


def stop(model: ModelName, server: Server = None, as_json: AsJSON = False) -> None:
    with failing_in_sentences():
        from pagoda.cli.ollama_api import DEFAULT_SERVER, OllamaAPI, server_url
        from pagoda.cli.server_commands import stop_model

        with OllamaAPI(server_url(named_server(server) or DEFAULT_SERVER), api_key()) as api:
            stop_model(api, model)
        if as_json:
            print(_json({"stopped": model}))


def rm(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", autocompletion=complete_model)],
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.store_commands import remove_models

        deleted = remove_models(resolve_home(home), models)
        print(_json({"deleted": deleted}) if as_json else "\n".join(f"deleted '{name}'" for name in deleted))


def cp(
    source: ModelName,
    destination: Annotated[str, typer.Argument(help="Name of the copy.")],
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.store_commands import copy_model

        copy_model(resolve_home(home), source, destination)
        copied = {"source": source, "destination": destination}
        print(_json(copied) if as_json else f"copied '{source}' to '{destination}'")


def create(
    model: Annotated[str, typer.Argument(help="Name of the new model.")],
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Modelfile, GGUF file or directory of safetensors.")
    ] = Path("Modelfile"),
    quantize: Annotated[str | None, typer.Option("--quantize", "-q", hidden=True)] = None,
    as_json: AsJSON = False,
    home: Home = None,
) -> None:
    with failing_in_sentences():
        from pagoda.cli.store_commands import create_model

        if quantize is not None:
            raise CommandError("--quantize is not supported; create the model from a file that is already quantized")
        create_model(resolve_home(home), model, file)
        if as_json:
            print(_json({"created": model}))


def _json(value: Any) -> str:
    """Return JSON, indented on a terminal and on one line otherwise."""
    return json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str)
