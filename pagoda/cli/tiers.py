"""The options of `pagoda serve`, and the command lines of the tiers that it starts.

The settings class of each tier lists what else can be set by flag or environment variable.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from pagoda.api_keys.key_file import KEYS_FILE
from pagoda.cli.child import ChildCommand
from pagoda.cli.logs import DEFAULT_MAX_BYTES
from pagoda.process.resources import usable_cores
from pagoda.rpc.cluster_tokens import Role
from pagoda.rpc.sockets import scheduler_address


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `pagoda serve`. None means that the tier's own default applies."""

    models: tuple[str, ...]
    names_no_model: bool = False
    """True if the user named no model, so that `models` is the default one."""
    host: str
    port: int
    home: Path
    kv_memory: str | None = None
    check_memory: bool = True
    """Refuse to start if the available memory cannot hold the models."""
    numerics: str | None = None
    kv_dtype: str | None = None
    device: str | None = None
    num_workers: int = 1
    max_model_len: int | None = None
    context_length: int = 0
    """Default for `max_model_len`, limited to what the models support. 0 if not set."""
    max_step_tokens: int | None = None
    max_step_sequences: int | None = None
    keep_alive: str | None = None
    pull_on_demand: bool = False
    strict_fields: bool = False
    trust_request_chat_template: bool = False
    chat_template: Path | None = None
    """File with a template that replaces the one of the only model."""
    allowed_origins: str | None = None
    ollama_port: int | None = None
    """Second port of the gateway, for Ollama clients. 0 turns it off; None is the gateway's default."""
    sampling_defaults: str | None = None
    default_max_tokens: int | None = None
    otlp_endpoint: str | None = None
    api_key: str | None = None
    keys_file: Path | None = None
    log_bytes: int = DEFAULT_MAX_BYTES
    """Size at which a log is rotated, in bytes. 0 is no limit."""
    keys: str | None = None
    """API keys in the format of a keys file."""

    @property
    def keys_path(self) -> Path:
        return self.keys_file or self.home / KEYS_FILE

    @property
    def instance(self) -> str:
        """Name of this system among those that share a home: its port."""
        return str(self.port)

    @property
    def log_directory(self) -> Path:
        return self.home / "run" / self.instance

    @property
    def scheduler_address(self) -> str:
        return scheduler_address(self.home, self.instance)

    @property
    def worker_names(self) -> list[str]:
        """Names of the workers' processes."""
        return ["worker"] if self.num_workers == 1 else [f"worker-{number + 1}" for number in range(self.num_workers)]

    def progress_file(self, worker: str) -> Path:
        """Return the path of the file in which a worker tells how far the loading of its model has come."""
        return self.log_directory / f"{worker}.progress"

    def token_file(self, role: Role) -> Path:
        """Return the path of the cluster token of a role. The token is new for each start."""
        return self.log_directory / f"{role}.token"

    @property
    def url(self) -> str:
        """URL at which this machine reaches the gateway, also if the gateway listens on all addresses."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def tier_commands(options: ServeOptions) -> list[ChildCommand]:
    """Return the commands in the order in which they are stopped: from the gateway, which takes requests, to the scheduler."""
    return [_gateway(options), *_workers(options), _scheduler(options)]


def _gateway(options: ServeOptions) -> ChildCommand:
    flags = ["--host", options.host, "--port", str(options.port)]
    flags += ["--scheduler", options.scheduler_address, "--model", ",".join(options.models)]
    flags += _keys_file(options)
    flags += ["--cluster-token-file", str(options.token_file(Role.GATEWAY))]
    flags += ["--ollama-port", str(options.ollama_port)] if options.ollama_port is not None else []
    flags += ["--sampling-defaults", options.sampling_defaults] if options.sampling_defaults else []
    flags += ["--default-max-tokens", str(options.default_max_tokens)] if options.default_max_tokens else []
    flags += ["--pull-on-demand"] if options.pull_on_demand else []
    flags += ["--strict-fields"] if options.strict_fields else []
    flags += ["--trust-request-chat-template"] if options.trust_request_chat_template else []
    flags += ["--chat-template", str(options.chat_template)] if options.chat_template else []
    flags += ["--allowed-origins", options.allowed_origins] if options.allowed_origins else []
    return _tier("gateway", options, flags, _keys("GATEWAY", options))


def _keys_file(options: ServeOptions) -> list[str]:
    return ["--keys-file", str(options.keys_file)] if options.keys_file else []


def _keys(tier: str, options: ServeOptions) -> dict[str, str]:
    """Return the secrets of a tier as environment variables, because every user of the machine can read a command line."""
    secrets = {f"PAGODA_{tier}_API_KEY": options.api_key, f"PAGODA_{tier}_KEYS": options.keys}
    return {name: value for name, value in secrets.items() if value}


def _workers(options: ServeOptions) -> list[ChildCommand]:
    flags = ["--scheduler", options.scheduler_address, "--cluster-token-file", str(options.token_file(Role.WORKER))]
    flags += ["--kv-memory", options.kv_memory] if options.kv_memory else []
    flags += [] if options.check_memory else ["--no-check-memory"]
    flags += ["--numerics", options.numerics] if options.numerics else []
    flags += ["--kv-dtype", options.kv_dtype] if options.kv_dtype else []
    flags += ["--device", options.device] if options.device else []
    flags += ["--max-model-len", str(options.max_model_len)] if options.max_model_len else []
    flags += ["--max-step-tokens", str(options.max_step_tokens)] if options.max_step_tokens else []
    flags += ["--max-step-sequences", str(options.max_step_sequences)] if options.max_step_sequences else []
    if options.num_workers > 1:
        # By default each worker would use all cores.
        flags += ["--workers-on-machine", str(options.num_workers)]
        flags += ["--threads", str(max(1, usable_cores() // options.num_workers))]
    return [
        _tier("worker", options, [*flags, *_flags_of_worker(options, number)], name=name)
        for number, name in enumerate(options.worker_names)
    ]


def _flags_of_worker(options: ServeOptions, number: int) -> list[str]:
    progress = options.progress_file(options.worker_names[number])
    return [*_models_of_worker(options, number), "--progress-file", str(progress)]


def _models_of_worker(options: ServeOptions, number: int) -> list[str]:
    """Return the worker's --model flag. Each worker can load all models; worker i first loads model i, modulo their number."""
    turn = number % len(options.models)
    return ["--model", ",".join([*options.models[turn:], *options.models[:turn]])]


def _scheduler(options: ServeOptions) -> ChildCommand:
    tokens = ",".join(str(options.token_file(role)) for role in Role)
    flags = ["--listen", options.scheduler_address, "--cluster-token-file", tokens, *_keys_file(options)]
    # With "=", because a negative value alone would be parsed as a flag.
    flags += [f"--keep-alive={options.keep_alive}"] if options.keep_alive else []
    return _tier("scheduler", options, flags, _keys("SCHEDULER", options))


def _tier(
    tier: str,
    options: ServeOptions,
    flags: list[str],
    environment: dict[str, str] | None = None,
    name: str | None = None,
) -> ChildCommand:
    name = name or tier
    # -P: otherwise a folder of the working directory with the tier's name would be imported.
    arguments = [sys.executable, "-P", "-m", tier, "--home", str(options.home), *flags]
    arguments += ["--otlp-endpoint", options.otlp_endpoint] if options.otlp_endpoint is not None else []
    log = options.log_directory / f"{name}.log"
    return ChildCommand(name=name, arguments=arguments, log=log, environment=environment or {})
