"""Implementation of `pagoda serve`, which checks its options, fetches the models, starts the tiers and prints the banner.

supervisor.py keeps the processes running; tiers.py builds their command lines.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pagoda.api_keys.key_file import KeyEntry, KeyFile, KeysError, parse_keys
from pagoda.cli.banner import banner
from pagoda.cli.failure import CommandError, describe_os_error
from pagoda.cli.fetch import fetch_model
from pagoda.cli.loading_display import LoadingDisplay
from pagoda.cli.logs import begin_anew, keep_bounded
from pagoda.cli.memory_check import check_memory
from pagoda.cli.readiness import NotReadyError, wait_for_gateway, wait_for_workers
from pagoda.cli.supervisor import ChildLostError, Supervisor
from pagoda.cli.tier_programs import TIERS, check_installed
from pagoda.cli.tiers import ServeOptions, tier_commands
from pagoda.models.catalogue import CatalogueEntry, better_model
from pagoda.models.chat_template_choice import read_template_file
from pagoda.models.errors import ModelError
from pagoda.models.formats.gguf_file import headers_kept
from pagoda.models.formats.tensor_check import check_tensors
from pagoda.models.model import Model
from pagoda.process.background import end_tasks, keep_running
from pagoda.process.memory import available_memory
from pagoda.process.resources import machine_available_bytes
from pagoda.rpc.cluster_tokens import Role, make_token_file
from pagoda.rpc.sockets import (
    ForeignDirectoryError,
    is_loopback,
    make_private_directory,
    make_socket_directory,
    unix_path,
)
from pagoda.telemetry.otlp_endpoint import check_otlp_endpoint, default_otlp_endpoint

# Longer than the tiers' own drain_grace_s, so that running streams can finish.
STOP_GRACE_S = 40.0


class ServeError(Exception):
    """A mistake in the options or the environment. The message says what to change."""


@headers_kept()
def _checked_models(options: ServeOptions) -> list[Model]:
    """Return the models, fetched if needed, after checking that their tensors are right and fit into memory."""
    models = [fetch_model(options.home, model) for model in options.models]
    for model in models:
        check_tensors(model)
    check_memory(within_windows(options, models), models, available_memory())
    return models


def run_serve(options: ServeOptions) -> int:
    """Serve until a signal arrives; return the exit status of the command."""
    try:
        check_installed(*TIERS)
        check_exposure(options)
        check_port(options)
        check_tracing(options)
        check_models(options)
        models = _checked_models(options)
        make_run_directory(options)
        # Before the workers start, because they reserve memory.
        better = better_model(machine_available_bytes()) if options.names_no_model else None
        return asyncio.run(_serve(within_windows(options, models), models, better))
    except (ServeError, CommandError, ModelError, ChildLostError, NotReadyError) as error:
        say(f"Error: {error}")
        return 1
    except OSError as error:
        say(
            f"Error: {describe_os_error(error)}. Check the path and its permissions, or set another directory with --home."
        )
        return 1
    except KeyboardInterrupt:
        say("Stopped before anything was started.")
        return 130


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def check_exposure(options: ServeOptions) -> None:
    """Raise ServeError if the server could be reached over the network without an API key."""
    if options.api_key == "":
        raise ServeError("--api-key (or PAGODA_API_KEY) is empty. Set it to a secret value, or leave it unset.")
    has_keys = options.api_key is not None or bool(_listed_keys(options))
    if not is_loopback(options.host) and not has_keys:
        raise ServeError(
            f"--host {options.host} without an API key would open this server to the whole network. Create a key with "
            "`pagoda key create NAME`, set one with --api-key (or PAGODA_API_KEY), or use --host 127.0.0.1."
        )


def _listed_keys(options: ServeOptions) -> tuple[KeyEntry, ...]:
    """Return the keys of the keys file and the environment. The gateway reads them again itself."""
    try:
        given = parse_keys(options.keys, "PAGODA_GATEWAY_KEYS") if options.keys is not None else ()
        is_there = options.keys_file is not None or options.keys_path.exists()
        return (*given, *KeyFile(options.keys_path).read()) if is_there else given
    except KeysError as error:
        raise ServeError(f"{error}.") from None


def check_port(options: ServeOptions) -> None:
    """Raise ServeError if the port cannot be bound: better now than after minutes of loading. The gateway still binds itself."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServeError(
            f"cannot listen on {options.host} port {options.port}: {reason}. Choose another port with --port."
        ) from error


def check_tracing(options: ServeOptions) -> None:
    """Raise ServeError for a wrong OTLP endpoint. The tiers check it too, but only after the download and in their logs."""
    endpoint = default_otlp_endpoint() if options.otlp_endpoint is None else options.otlp_endpoint
    try:
        check_otlp_endpoint(endpoint)
    except ValueError as error:
        raise ServeError(f"--otlp-endpoint (or OTEL_EXPORTER_OTLP_ENDPOINT) {error}.") from None


def check_models(options: ServeOptions) -> None:
    for model in options.models:
        if "," in model:
            raise ServeError(f"--model must not contain a comma (got {model!r}). For several models, repeat --model.")
    if options.chat_template is None:
        return
    if len(options.models) > 1:
        raise ServeError(
            "--chat-template is for a server of one model. Write the template into a Modelfile as TEMPLATE, then: pagoda create "
            "NAME."
        )
    read_template_file(options.chat_template)


def within_windows(options: ServeOptions, models: Sequence[Model]) -> ServeOptions:
    """Set `max_model_len` from `context_length`, limited to what all models support. An explicit `max_model_len` stays."""
    if options.max_model_len is not None or not options.context_length:
        return options
    shortest = min(model.config.max_position for model in models)
    return replace(options, max_model_len=min(options.context_length, shortest))


async def _serve(options: ServeOptions, models: Sequence[Model], better: CatalogueEntry | None) -> int:
    """Run the tiers until a signal arrives; return the exit status. Raises if they cannot be started or kept running."""
    _prepare_run_directory(options)
    workers = "worker" if options.num_workers == 1 else f"{options.num_workers} workers"
    say(f"Starting gateway, scheduler and {workers} for {', '.join(model.name for model in models)} …")
    commands = tier_commands(options)
    supervisor = Supervisor(commands, say=say, grace_s=STOP_GRACE_S)
    signals = StopSignals(supervisor)
    loading = keep_running("loading display", LoadingDisplay(_loading_models(options, models)).run)
    tasks = [
        asyncio.create_task(supervisor.run()),
        asyncio.create_task(_announce_when_ready(options, models, supervisor, better, loading)),
        asyncio.create_task(signals.first.wait()),
    ]
    logs = [command.log for command in commands] if options.log_bytes else []
    shortening = keep_running("log files", partial(keep_bounded, logs, options.log_bytes, say))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        say("Stopping …")
        await supervisor.stop()
        await end_tasks(*tasks, shortening, loading)
        _remove_socket(options)
    say("Stopped.")
    return signals.status


def _loading_models(options: ServeOptions, models: Sequence[Model]) -> dict[Path, str]:
    """Return the model that each worker loads first, by the file in which the worker tells its progress."""
    names = options.worker_names
    return {options.progress_file(name): models[number % len(models)].name for number, name in enumerate(names)}


def make_run_directory(options: ServeOptions) -> None:
    """Make the run and socket directories, accessible to this user only. The socket directory moves if its path is too long."""
    try:
        make_private_directory(options.home / "run")
        make_private_directory(options.log_directory)
        make_socket_directory(options.home, options.instance)
    except ForeignDirectoryError as error:
        raise ServeError(f"{error}.") from None


def _prepare_run_directory(options: ServeOptions) -> None:
    """Make new cluster tokens and rotate the logs of the last run."""
    for role in Role:
        options.token_file(role).unlink(missing_ok=True)
        make_token_file(options.token_file(role), role)
    for log in options.log_directory.glob("*.log"):
        begin_anew(log)


class StopSignals:
    """Handlers of SIGINT and SIGTERM: the first signal stops the tiers gracefully, a second one kills them."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.first = asyncio.Event()
        self.status = 0
        """Exit status of the command: 0, or 128 plus the signal's number after a kill."""
        self._supervisor = supervisor
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self.first.is_set():
            self.status = 128 + number
            self._supervisor.kill()
        self.first.set()


async def _announce_when_ready(
    options: ServeOptions,
    models: Sequence[Model],
    supervisor: Supervisor,
    better: CatalogueEntry | None,
    loading: "asyncio.Task[None]",
) -> None:
    """Print the banner once all tiers are ready. Never returns, so that this task is not the first of its group to end."""
    addresses = await wait_for_gateway(options)
    load = await wait_for_workers(options)
    supervisor.settle()
    await end_tasks(loading)
    print(banner(options, models, load, addresses, better), flush=True)
    await asyncio.Event().wait()


def _remove_socket(options: ServeOptions) -> None:
    """Remove the scheduler's socket, which is left over if the scheduler had to be killed."""
    path = unix_path(options.scheduler_address)
    if path is not None:
        path.unlink(missing_ok=True)
