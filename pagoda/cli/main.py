"""The `pagoda` command's words and options. Those about models are in model_commands.py; what they do is elsewhere."""

from typing import Annotated, Literal

import typer

from pagoda.cli import credential_commands, model_commands, other_words
from pagoda.cli.chat import command as chat_command
from pagoda.cli.credential_commands import KeysFile
from pagoda.cli.doctor import command as doctor_command
from pagoda.cli.failure import failing_in_sentences
from pagoda.cli.options import Home, complete_model, named_by_ollama, resolve_home
from pagoda.cli.tier_programs import become_tier
from pagoda.cli.vllm_flags import ServeCommand
from pagoda.distribution import VERSION
from pagoda.durations import parse_setting
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.process.logging import configure_warnings

app = typer.Typer(
    name="pagoda",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="MODEL", help="The same as --model.", autocompletion=complete_model, show_default=False),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="A name, fetched if missing, or the path of a GGUF file or a checkpoint. May be repeated; those of the store are "
        f"loaded when somebody asks for them. (default: {DEFAULT_MODEL})",
        autocompletion=complete_model,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        help="The address to listen on. Other than loopback it needs a key. (default: OLLAMA_HOST, else 127.0.0.1)"
    ),
]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="The port to listen on. (default: OLLAMA_HOST, else 8000)"),
]
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
        envvar=["PAGODA_KEEP_ALIVE", "OLLAMA_KEEP_ALIVE"],
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
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        envvar="PAGODA_WORKER_MAX_MODEL_LEN",
        min=2,
        metavar="N",
        help="The longest sequence, prompt and answer. (default: OLLAMA_CONTEXT_LENGTH, else what the model was made for)",
    ),
]
ContextLength = Annotated[
    int, typer.Option("--context-length", envvar="OLLAMA_CONTEXT_LENGTH", min=0, hidden=True, help="0 is none.")
]
MaxStepTokens = Annotated[int | None, typer.Option("--max-step-tokens", min=1, hidden=True)]
MaxStepSequences = Annotated[int | None, typer.Option("--max-step-sequences", min=1, hidden=True)]
StrictFields = Annotated[
    bool, typer.Option("--strict-fields", help="Refuse requests with fields that the API does not have.")
]
TrustTemplates = Annotated[
    bool,
    typer.Option(
        "--trust-request-chat-template", help="Render templates that come with requests, whatever scopes the key has."
    ),
]
AllowedOrigins = Annotated[
    str | None,
    typer.Option(
        "--allowed-origins",
        envvar=["PAGODA_GATEWAY_ALLOWED_ORIGINS", "OLLAMA_ORIGINS"],
        metavar="ORIGINS",
        help="Web origins, between commas, whose pages may use this server beside those of this machine.",
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


def _log_bytes(value: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        if (num_bytes := TypeAdapter(ByteSize).validate_python(value)) >= 0:
            return num_bytes
        raise typer.BadParameter(f"{value!r} is less than nothing; write a size like 20MiB, or 0 for no limit")
    except ValidationError:
        raise typer.BadParameter(f"{value!r} is no size; write it like 20MiB, or 0 for no limit") from None


LogSize = Annotated[
    str,
    typer.Option(
        "--log-size",
        envvar="PAGODA_LOG_SIZE",
        metavar="SIZE",
        help="How large a process's log may become; the last so much before that is kept beside it. 0: no limit.",
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
        typer.echo(f"pagoda {VERSION}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", "-v", callback=_print_version, is_eager=True, help="Print it.")]


@app.callback(help="Serve language models to OpenAI and Ollama clients, on a laptop or a cluster.")
def pagoda(version: Version = False) -> None:
    configure_warnings()


# What the commands need is imported inside them, so that `pagoda --help` and handing over to a tier stay quick.


@app.command("start", cls=ServeCommand, hidden=True, help="The same as serve.")
@app.command(cls=ServeCommand, help="Serve a model on this machine: gateway, scheduler and workers, as processes.")
def serve(
    names: Names = None,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    kv_memory: KVMemory = None,
    numerics: Numerics = None,
    kv_dtype: KVDtype = None,
    device: Device = None,
    workers: Workers = None,
    max_model_len: MaxModelLen = None,
    context_length: ContextLength = 0,
    max_step_tokens: MaxStepTokens = None,
    max_step_sequences: MaxStepSequences = None,
    keep_alive: KeepAlive = None,
    strict_fields: StrictFields = False,
    trust_request_chat_template: TrustTemplates = False,
    allowed_origins: AllowedOrigins = None,
    ollama_port: OllamaPort = None,
    sampling_defaults: SamplingDefaults = None,
    default_max_tokens: DefaultMaxTokens = None,
    otlp_endpoint: OTLPEndpoint = None,
    log_size: LogSize = "20MiB",
    api_key: APIKey = None,
    keys_file: KeysFile = None,
    keys: ListedKeys = None,
    home: Home = None,
) -> None:
    from pagoda.cli.serve import run_serve
    from pagoda.cli.tiers import ServeOptions

    ollama = named_by_ollama()
    all_models = tuple([*(names or ()), *(models or ())]) or (DEFAULT_MODEL,)
    options = ServeOptions(
        models=all_models,
        host=host or (ollama.host if ollama else "127.0.0.1"),
        port=port or (ollama.port if ollama else 8000),
        home=resolve_home(home),
        kv_memory=kv_memory,
        numerics=numerics,
        kv_dtype=kv_dtype,
        device=device,
        num_workers=workers or len(all_models),
        max_model_len=max_model_len,
        context_length=context_length,
        max_step_tokens=max_step_tokens,
        max_step_sequences=max_step_sequences,
        keep_alive=keep_alive,
        strict_fields=strict_fields,
        trust_request_chat_template=trust_request_chat_template,
        allowed_origins=allowed_origins,
        ollama_port=ollama_port,
        sampling_defaults=sampling_defaults,
        default_max_tokens=default_max_tokens,
        otlp_endpoint=otlp_endpoint,
        log_bytes=_log_bytes(log_size),
        api_key=api_key,
        keys_file=keys_file.expanduser().absolute() if keys_file else None,
        keys=keys,
    )
    raise typer.Exit(run_serve(options))


chat_command.register(app)
model_commands.register(app)
doctor_command.register(app)
credential_commands.register(app)
other_words.register(app)


@app.command(context_settings=_PASS_THROUGH, help="Start a gateway alone.")
def gateway(context: typer.Context) -> None:
    _start_tier("gateway", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start a scheduler alone.")
def scheduler(context: typer.Context) -> None:
    _start_tier("scheduler", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start a worker alone.")
def worker(context: typer.Context) -> None:
    _start_tier("worker", context.args)


def _start_tier(tier: str, arguments: list[str]) -> None:
    with failing_in_sentences():
        become_tier(tier, arguments)
