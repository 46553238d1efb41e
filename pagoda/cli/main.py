"""The `pagoda` command: its options, `serve`, and the commands that start one tier. Other commands register themselves."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pagoda.cli import credential_commands, model_commands, other_words
from pagoda.cli.chat import command as chat_command
from pagoda.cli.credential_commands import KeysFile
from pagoda.cli.doctor import command as doctor_command
from pagoda.cli.failure import PlainGroup
from pagoda.cli.options import Home, complete_model, named_by_ollama, resolve_home
from pagoda.cli.tier_programs import become_tier
from pagoda.cli.vllm_flags import ServeCommand
from pagoda.distribution import VERSION
from pagoda.durations import parse_setting
from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.process.logging import configure_warnings

app = typer.Typer(
    name="pagoda",
    cls=PlainGroup,
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
        help="A model name (downloaded if missing), or the path of a GGUF file or checkpoint directory. Repeatable. Other models "
        f"of the store are loaded on request. (default: {DEFAULT_MODEL})",
        autocompletion=complete_model,
    ),
]
Host = Annotated[
    str | None,
    typer.Option(
        help="Address to listen on. Any other than loopback requires an API key. (default: OLLAMA_HOST, else 127.0.0.1)"
    ),
]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port to listen on. (default: OLLAMA_HOST, else 8000)"),
]
KVMemory = Annotated[
    str | None,
    typer.Option("--kv-memory", metavar="SIZE", help="A worker's KV cache size, such as 2GiB. (default: automatic)"),
]
CheckMemory = Annotated[
    bool,
    typer.Option("--check-memory/--no-check-memory", help="Refuse a model that needs more memory than is available."),
]
Numerics = Annotated[
    str | None,
    typer.Option(
        help="Arithmetic of the worker: integer, float32 or bfloat16. (default: integer on a CPU, bfloat16 on a GPU)"
    ),
]
KVDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype", metavar="NAME", help="Number format of the KV cache. int8 halves its size. (default: int16)"
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="Device that the worker computes on, such as cuda. (default: cpu)")
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
        help="How long an unused model stays loaded, such as 5m. (default: forever)",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of worker processes. They share the cores; each loads one model. (default: one per --model)"
    ),
]
OllamaPort = Annotated[
    int | None,
    typer.Option(
        "--ollama-port",
        min=0,
        max=65535,
        metavar="PORT",
        help="Second port to listen on if it is free, for Ollama clients; 0 turns it off. (default: 11434)",
    ),
]
SamplingDefaults = Annotated[
    Literal["model", "neutral"] | None,
    typer.Option(
        "--sampling-defaults",
        help="Sampling values that a request leaves out: the model's recommendation, or neutral values. (default: model)",
    ),
]
DefaultMaxTokens = Annotated[
    int | None,
    typer.Option(
        "--default-max-tokens",
        min=1,
        max=2**31 - 1,
        metavar="N",
        help="Token limit of an answer if the request sets none. (default: the model's, else the rest of its context)",
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        "--max-model-len",
        envvar="PAGODA_WORKER_MAX_MODEL_LEN",
        min=2,
        metavar="N",
        help="Most tokens of a prompt and its answer together. (default: OLLAMA_CONTEXT_LENGTH, else the model's own)",
    ),
]
ContextLength = Annotated[
    int, typer.Option("--context-length", envvar="OLLAMA_CONTEXT_LENGTH", min=0, hidden=True, help="0: not set.")
]
MaxStepTokens = Annotated[int | None, typer.Option("--max-step-tokens", min=1, hidden=True)]
MaxStepSequences = Annotated[int | None, typer.Option("--max-step-sequences", min=1, hidden=True)]
StrictFields = Annotated[bool, typer.Option("--strict-fields", help="Reject requests with unknown fields.")]
PullOnDemand = Annotated[
    bool,
    typer.Option("--pull-on-demand", help="Download a model that a request names and that is not on this machine."),
]
TrustTemplates = Annotated[
    bool,
    typer.Option(
        "--trust-request-chat-template", help="Render chat templates sent in requests, whatever scopes the key has."
    ),
]
ChatTemplate = Annotated[
    Path | None,
    typer.Option(
        "--chat-template",
        envvar=["PAGODA_CHAT_TEMPLATE", "PAGODA_GATEWAY_CHAT_TEMPLATE"],
        metavar="FILE",
        help="A chat template in Jinja to use instead of the model's own.",
    ),
]
AllowedOrigins = Annotated[
    str | None,
    typer.Option(
        "--allowed-origins",
        envvar=["PAGODA_GATEWAY_ALLOWED_ORIGINS", "OLLAMA_ORIGINS"],
        metavar="ORIGINS",
        help="Comma-separated web origins, other than this machine's, whose pages may call this server.",
    ),
]
# vLLM's options for models of the Hugging Face hub.
HFToken = Annotated[str | None, typer.Option("--hf-token", hidden=True)]
Revision = Annotated[str | None, typer.Option("--revision", hidden=True)]
DownloadDir = Annotated[Path | None, typer.Option("--download-dir", hidden=True)]
OTLPEndpoint = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        metavar="URL",
        help="Where to send traces, such as http://127.0.0.1:4317. (default: OTEL_EXPORTER_OTLP_ENDPOINT, else off)",
    ),
]


def _log_bytes(value: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        if (num_bytes := TypeAdapter(ByteSize).validate_python(value)) >= 0:
            return num_bytes
    except ValidationError:
        pass
    raise typer.BadParameter(f"--log-size must be a size such as 20MiB, or 0 for no limit (got {value!r})")


LogSize = Annotated[
    str,
    typer.Option(
        "--log-size",
        envvar="PAGODA_LOG_SIZE",
        metavar="SIZE",
        help="Size at which a process's log is rotated; one older part is kept. 0: no limit.",
    ),
]
APIKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=["PAGODA_API_KEY", "PAGODA_GATEWAY_API_KEY"],
        help="One API key with all scopes, sent by clients as a bearer token. Every user of this machine can read a command "
        "line, so prefer the environment variable, or pagoda key create.",
    ),
]
ListedKeys = Annotated[str | None, typer.Option("--keys", envvar="PAGODA_GATEWAY_KEYS", hidden=True)]

# The tier itself parses the rest of the line, --help included.
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pagoda {VERSION}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", "-v", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback(help="Serve language models to OpenAI, Anthropic and Ollama clients, on a laptop or a cluster.")
def pagoda(version: Version = False) -> None:
    configure_warnings()


# Commands import what they need when they run, so that `pagoda --help` and `pagoda worker` start quickly.


@app.command("start", cls=ServeCommand, hidden=True, help="The same as serve.")
@app.command(cls=ServeCommand, help="Serve models on this machine: start a gateway, a scheduler and workers.")
def serve(
    names: Names = None,
    models: Models = None,
    host: Host = None,
    port: Port = None,
    kv_memory: KVMemory = None,
    check_memory: CheckMemory = True,
    numerics: Numerics = None,
    kv_dtype: KVDtype = None,
    device: Device = None,
    workers: Workers = None,
    max_model_len: MaxModelLen = None,
    context_length: ContextLength = 0,
    max_step_tokens: MaxStepTokens = None,
    max_step_sequences: MaxStepSequences = None,
    keep_alive: KeepAlive = None,
    pull_on_demand: PullOnDemand = False,
    strict_fields: StrictFields = False,
    trust_request_chat_template: TrustTemplates = False,
    chat_template: ChatTemplate = None,
    allowed_origins: AllowedOrigins = None,
    ollama_port: OllamaPort = None,
    sampling_defaults: SamplingDefaults = None,
    default_max_tokens: DefaultMaxTokens = None,
    otlp_endpoint: OTLPEndpoint = None,
    log_size: LogSize = "20MiB",
    api_key: APIKey = None,
    keys_file: KeysFile = None,
    keys: ListedKeys = None,
    hf_token: HFToken = None,
    revision: Revision = None,
    download_dir: DownloadDir = None,
    home: Home = None,
) -> None:
    from pagoda.cli.serve import run_serve
    from pagoda.cli.tiers import ServeOptions
    from pagoda.cli.vllm_flags import at_revision, use_hub

    ollama = named_by_ollama()
    use_hub(hf_token, download_dir)
    named = (*(names or ()), *(models or ()))
    all_models = at_revision(named, revision) if revision else named or (DEFAULT_MODEL,)
    options = ServeOptions(
        models=all_models,
        names_no_model=not named,
        host=host or (ollama.host if ollama else "127.0.0.1"),
        port=port or (ollama.port if ollama else 8000),
        home=resolve_home(home),
        kv_memory=kv_memory,
        check_memory=check_memory,
        numerics=numerics,
        kv_dtype=kv_dtype,
        device=device,
        num_workers=workers or len(all_models),
        max_model_len=max_model_len,
        context_length=context_length,
        max_step_tokens=max_step_tokens,
        max_step_sequences=max_step_sequences,
        keep_alive=keep_alive,
        pull_on_demand=pull_on_demand,
        strict_fields=strict_fields,
        trust_request_chat_template=trust_request_chat_template,
        chat_template=chat_template.expanduser().absolute() if chat_template else None,
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


@app.command(context_settings=_PASS_THROUGH, help="Start only a gateway.")
def gateway(context: typer.Context) -> None:
    become_tier("gateway", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start only a scheduler.")
def scheduler(context: typer.Context) -> None:
    become_tier("scheduler", context.args)


@app.command(context_settings=_PASS_THROUGH, help="Start only a worker.")
def worker(context: typer.Context) -> None:
    become_tier("worker", context.args)
