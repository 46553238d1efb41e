"""The `pagoda` command's words and options. Those about models are in model_commands.py; what they do is elsewhere."""

import importlib.metadata
import os
import sys
from typing import Annotated, Literal

import typer

from pagoda.cli import key_commands, model_commands, token_commands
from pagoda.cli.chat import command as chat_command
from pagoda.cli.doctor import command as doctor_command
from pagoda.cli.key_commands import KeysFile
from pagoda.cli.options import Home, complete_model, resolve_home
from pagoda.durations import parse_setting
from pagoda.models.catalogue import DEFAULT_MODEL

app = typer.Typer(name="pagoda", no_args_is_help=True, pretty_exceptions_enable=False)

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="A name, fetched if missing, or the path of a GGUF file or a checkpoint. May be repeated; those of the store are "
        "loaded when somebody asks for them.",
        autocompletion=complete_model,
    ),
]
Host = Annotated[str, typer.Option(help="The address to listen on. Other than loopback it needs a key.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")]
KVMemory = Annotated[
    str | None,
    typer.Option("--kv-memory", metavar="SIZE", help="For keys and values, such as 2GiB. (default: automatic)"),
]
Numerics = Annotated[str | None, typer.Option(help="How the worker computes; see docs/numerics.md.")]
KVDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype", metavar="NAME", help="What keys and values are kept in: int8 halves them. (default: int16)"
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="What the worker computes on, such as cuda. (default: cpu)")
]


def _check_duration(value: str | None) -> str | None:
    try:
        parse_setting(value or "-1")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return value


KeepAlive = Annotated[
    str | None,
    typer.Option(
        "--keep-alive",
        envvar="PAGODA_KEEP_ALIVE",
        metavar="DURATION",
        callback=_check_duration,
        help="How long a model that nobody uses stays in memory, such as 5m. (default: for ever)",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Worker processes, which share the cores; each has one model in memory. (default: one per --model)"
    ),
]
OllamaPort = Annotated[
    int | None,
    typer.Option(
        "--ollama-port",
        min=0,
        max=65535,
        metavar="PORT",
        help="Where Ollama's clients look, used too if it is free; 0 leaves it alone. (default: 11434)",
    ),
]
SamplingDefaults = Annotated[
    Literal["model", "neutral"] | None,
    typer.Option(
        "--sampling-defaults",
        help="What requests leave open: as the model's makers recommend, or the API's neutral values. (default: model)",
    ),
]
DefaultMaxTokens = Annotated[
    int | None,
    typer.Option(
        "--default-max-tokens",
        min=1,
        max=2**31 - 1,
        metavar="N",
        help="The longest answer where a request names no limit. (default: the model's, else the rest of its window)",
    ),
]
OTLPEndpoint = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        metavar="URL",
        help="Where traces go, such as http://127.0.0.1:4317. (default: OTEL_EXPORTER_OTLP_ENDPOINT, else off)",
    ),
]
APIKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=["PAGODA_API_KEY", "PAGODA_GATEWAY_API_KEY"],
        help="One key for everything; clients must send it as a bearer token. Every user of this machine can read a command line: "
        "better in the environment, or made by pagoda key.",
    ),
]
ListedKeys = Annotated[str | None, typer.Option("--keys", envvar="PAGODA_GATEWAY_KEYS", hidden=True)]

# The rest of the line, --help included, belongs to the tier.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pagoda {importlib.metadata.version('pagoda')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")]


@app.callback(help="Serve language models to OpenAI and Ollama clients, on a laptop or a cluster.")
def pagoda(version: Version = False) -> None:
    pass


# What the commands need is imported inside them, so that `pagoda --help` and handing over to a tier stay quick.


@app.command(help="Serve a model on this machine: gateway, scheduler and workers, as processes.")
def serve(
    models: Models = [DEFAULT_MODEL],  # noqa: B006  # typer reads it, nobody writes it
    host: Host = "127.0.0.1",
    port: Port = 8000,
    kv_memory: KVMemory = None,
    numerics: Numerics = None,
    kv_dtype: KVDtype = None,
    device: Device = None,
    workers: Workers = None,
    keep_alive: KeepAlive = None,
    ollama_port: OllamaPort = None,
    sampling_defaults: SamplingDefaults = None,
    default_max_tokens: DefaultMaxTokens = None,
    otlp_endpoint: OTLPEndpoint = None,
    api_key: APIKey = None,
    keys_file: KeysFile = None,
    keys: ListedKeys = None,
    home: Home = None,
) -> None:
    from pagoda.cli.serve import run_serve
    from pagoda.cli.tiers import ServeOptions

    options = ServeOptions(
        models=tuple(models),
        host=host,
        port=port,
        home=resolve_home(home),
        kv_memory=kv_memory,
        numerics=numerics,
        kv_dtype=kv_dtype,
        device=device,
        num_workers=workers or len(models),
        keep_alive=keep_alive,
        ollama_port=ollama_port,
        sampling_defaults=sampling_defaults,
        default_max_tokens=default_max_tokens,
        otlp_endpoint=otlp_endpoint,
        api_key=api_key,
        keys_file=keys_file.expanduser().absolute() if keys_file else None,
        keys=keys,
    )
    raise typer.Exit(run_serve(options))


chat_command.register(app)
model_commands.register(app)
doctor_command.register(app)
key_commands.register(app)
token_commands.register(app)


@app.command(context_settings=_PASS_THROUGH, help="Start a gateway alone.")
def gateway(context: typer.Context) -> None:
    _become_tier("gateway", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start a scheduler alone.")
def scheduler(context: typer.Context) -> None:
    _become_tier("scheduler", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start a worker alone.")
def worker(context: typer.Context) -> None:
    _become_tier("worker", context.args)


def _become_tier(tier: str, arguments: list[str]) -> None:
    """Replace this process, so that signals and exit status are the tier's own."""
    # -P: a folder named like a tier in the working directory must not be taken for it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", tier, *arguments])
