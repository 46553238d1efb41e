"""Tests that a tier accepts every command and variable that compose.yaml and the manifests give to it.

They also start the system from these as plain processes: only addresses and paths are replaced, and each process finds
only the modules that its image has.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main
from typer.testing import CliRunner

from gateway.settings import GatewaySettings
from pagoda import healthcheck
from pagoda.cli.main import app
from pagoda.models.catalogue import find_entry
from pagoda.rpc.cluster_tokens import make_token_file
from pagoda.settings import TierSettings
from scheduler.settings import SchedulerSettings
from tests.deploy import manifests
from tests.deploy.compose import KEY, TWO_SCHEDULERS, Container, container, resolved_compose
from tests.deploy.image import HOME, image
from tests.deploy.installed import GUARD, distributions_of, modules_not_installed_with
from tests.e2e.system import free_port, until
from tests.fakes.certificates import Authority
from tests.fakes.native_code import give_native_code
from tests.fakes.tiny_model import write_tiny_gguf
from tests.fakes.valkey import real_valkey
from worker.settings import WorkerSettings

SETTINGS: Mapping[str, type[TierSettings]] = {
    "gateway": GatewaySettings,
    "scheduler": SchedulerSettings,
    "worker": WorkerSettings,
}
TIERS = tuple(SETTINGS)
SCHEDULERS = ("scheduler", "scheduler-2")


def manifest_container(tier: str) -> Container:
    workload = next(found for found in manifests.workloads() if found["metadata"]["name"] == tier)
    (described,) = manifests.pod(workload)["containers"]
    built = image(tier)
    return Container(
        arguments=built.entrypoint,
        environment=built.environment | manifests.environment(described),
        healthcheck=built.healthcheck,
    )


def compose_container(tier: str) -> Container:
    return container(resolved_compose()["services"][tier])


def compose_container_of_two(tier: str) -> Container:
    return container(resolved_compose(TWO_SCHEDULERS)["services"][tier])


@pytest.mark.parametrize("described", [compose_container, compose_container_of_two, manifest_container])
@pytest.mark.parametrize("tier", TIERS)
def test_settings_load(tier: str, described: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: Container = described(tier)
    assert told.arguments[:4] == ["python", "-P", "-m", tier]
    make_tokens(told, tier, tmp_path)
    for name, value in told.environment.items():
        monkeypatch.setenv(name, value.replace("/etc/pagoda", str(tmp_path)))
    settings = SETTINGS[tier].load(told.arguments[4:])
    assert str(settings.home) == HOME
    # Each variable that begins like a setting belongs to this tier and was read.
    prefix = f"PAGODA_{tier.upper()}_"
    other = [name for name in told.environment if name.startswith("PAGODA_") and not name.startswith(prefix)]
    assert set(other) - {"PAGODA_HOME"} <= set(image("base").environment)
    told_names = {name.removeprefix(prefix).lower() for name in told.environment if name.startswith(prefix)}
    assert told_names == settings.model_fields_set - {"home"}


def make_tokens(told: Container, tier: str, directory: Path) -> None:
    """Write the tier's tokens, with the directory in place of /etc/pagoda."""
    for file in told.environment[f"PAGODA_{tier.upper()}_CLUSTER_TOKEN_FILE"].split(","):
        make_token_file(Path(file.replace("/etc/pagoda", str(directory))))


def make_tokens_as_compose_does(here: "Here") -> None:
    service = resolved_compose()["services"]["cluster-tokens"]
    made = CliRunner().invoke(
        app, [here.text("gateway", word) for word in (service["entrypoint"][1], *service["command"])]
    )
    assert made.exit_code == 0, made.output


def pulls() -> list[list[str]]:
    service = resolved_compose()["services"]["model"]
    found = [[*service["entrypoint"], *service["command"]]]
    for workload in manifests.workloads():
        for described in manifests.pod(workload).get("initContainers", []):
            environment = manifests.environment(described)
            arguments = [environment[argument.removeprefix("$(").removesuffix(")")] for argument in described["args"]]
            found.append([*described["command"], *arguments])
    return found


def test_models_are_fetched_by_a_command_that_exists() -> None:
    commands = typer.main.get_command(app)
    assert len(pulls()) == 2  # the gateway of Kubernetes fetches its model itself
    for program, name, *arguments in pulls():
        assert program == "pagoda"
        command = commands.commands[name]  # type: ignore[attr-defined]  # it is a group
        assert command.make_context(name, list(arguments)).params["model"] in arguments
        assert find_entry(arguments[0]) is not None


def test_the_extras_are_what_the_images_are_said_to_have() -> None:
    heavy = {"torch", "numpy", "safetensors"}
    assert heavy <= distributions_of("worker")
    for tier in ("gateway", "scheduler"):
        assert not heavy & distributions_of(tier)
        assert heavy <= set(modules_not_installed_with(tier))
    sdk = {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-grpc"}
    assert sdk <= distributions_of("tracing")
    for tier in ("gateway", "scheduler", "worker"):
        assert "opentelemetry-api" in distributions_of(tier) and not sdk & distributions_of(tier)


def test_what_an_image_lacks_cannot_be_imported() -> None:
    """The guard hides modules; otherwise the test below would prove nothing."""
    environment = {"PYTHONPATH": str(GUARD), "FORBIDDEN_MODULES": " ".join(modules_not_installed_with("gateway"))}
    command = [sys.executable, "-P", "-c", "import fastapi, torch"]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert "No module named 'torch'" in refused.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """The replacements that turn containers into processes of this machine."""

    home: Path
    model: str = ""
    valkey: str = ""
    gateway_port: int = field(default_factory=free_port)
    scheduler_ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in SCHEDULERS})

    def command(self, service: str, arguments: list[str]) -> list[str]:
        return [sys.executable if word == "python" else self.text(service, word) for word in arguments]

    def environment(self, service: str, told: Container) -> dict[str, str]:
        replaced = {name: self.text(service, value) for name, value in told.environment.items()}
        tier = "scheduler" if service in SCHEDULERS else service
        return replaced | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOSTNAME": socket.gethostname(),  # every container has it
            "PYTHONPATH": str(GUARD),
            "FORBIDDEN_MODULES": " ".join(modules_not_installed_with(tier)),
        }

    def scheduler(self, service: str) -> str:
        return f"127.0.0.1:{self.scheduler_ports[service]}"

    def text(self, service: str, value: str) -> str:
        """Return the value with the replacements for a service's process."""
        for there, here in (
            ("redis://valkey:6379/0", self.valkey),
            ("http://otel-collector:4317", "http://127.0.0.1:9"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1:50051", self.scheduler(service if service in SCHEDULERS else "scheduler")),
            *((f"{name}:50051", self.scheduler(name)) for name in SCHEDULERS),
            ("127.0.0.1:8000", f"127.0.0.1:{self.gateway_port}"),
            (HOME, str(self.home)),
            ("/etc/pagoda", str(self.home)),
            ("smollm2:135m", self.model),
        ):
            value = value.replace(there, here)
        return str(self.gateway_port) if value == "8000" else value


@contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=environment, cwd=log.parent, stdout=output, stderr=output)
        try:
            yield running
        finally:
            running.kill()
            running.wait()


def started(here: Here, service: str, told: Container) -> AbstractContextManager[subprocess.Popen[bytes]]:
    command, environment = here.command(service, told.arguments), here.environment(service, told)
    return process(command, environment, here.home / f"{service}.log")


def wait_until_healthy(here: Here, service: str, told: Container, running: subprocess.Popen[bytes]) -> None:
    log = here.home / f"{service}.log"
    until(f"{service} is healthy", lambda: is_healthy(here, service, told, running, log))


def is_healthy(here: Here, service: str, told: Container, running: subprocess.Popen[bytes], log: Path) -> bool:
    assert running.poll() is None, log.read_text()
    command, environment = here.command(service, told.healthcheck), here.environment(service, told)
    checked = subprocess.run(command, env=environment, cwd=here.home, capture_output=True, timeout=200)
    assert b"Traceback" not in checked.stderr, checked.stderr.decode()
    return checked.returncode == 0


# Like other tests that start whole systems.
@pytest.mark.timeout(300)
def test_the_system_starts_serves_and_stops() -> None:
    """A system with two schedulers still answers after the one with the worker is killed."""
    with ExitStack() as stack:
        # A short path, because a unix socket's path has a limit.
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pagoda-")))
        valkey = stack.enter_context(real_valkey(home))
        here = Here(home=home, model=str(write_tiny_gguf(give_native_code(home) / "tiny.gguf")), valkey=valkey.url)
        make_tokens_as_compose_does(here)
        told = {service: compose_container_of_two(service) for service in (*SCHEDULERS, "worker", "gateway")}
        running = {service: stack.enter_context(started(here, service, told[service])) for service in told}
        for service in told:
            wait_until_healthy(here, service, told[service], running[service])
        url = f"http://127.0.0.1:{here.gateway_port}"
        with httpx.Client(base_url=url, trust_env=False, timeout=200) as http:
            assert http.get("/v1/models").status_code == 401
            http.headers["Authorization"] = f"Bearer {KEY}"
            text = completion(http)
            assert "vllm:generation_tokens_total" in http.get("/metrics").text
            (with_worker,) = [service for service in SCHEDULERS if has_worker(here, service)]
            running.pop(with_worker).kill()
            assert completion(http) == text

        for service in ("gateway", "worker", *(running.keys() & SCHEDULERS)):
            running[service].send_signal(signal.SIGTERM)
            assert running[service].wait(200) == 0, (home / f"{service}.log").read_text()


def completion(http: httpx.Client) -> str:
    answer = http.post("/v1/completions", json={"model": "tiny", "prompt": "Pagoda", "max_tokens": 4, "temperature": 0})
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] >= 1
    text: str = answer.json()["choices"][0]["text"]
    return text


def has_worker(here: Here, service: str) -> bool:
    """Return True if the worker's own health check finds it at this scheduler."""
    told = compose_container_of_two("worker")
    environment = here.environment("worker", told) | {"PAGODA_WORKER_SCHEDULER": here.scheduler(service)}
    command = here.command("worker", told.healthcheck)
    return subprocess.run(command, env=environment, cwd=here.home, capture_output=True, timeout=200).returncode == 0


def test_with_tls_a_scheduler_is_probed_as_the_manifests_say(tmp_path: Path) -> None:
    certificates = tmp_path / "tls"
    certificates.mkdir()
    Authority(certificates, "ca").issue("tls", hosts=["127.0.0.1", "scheduler-0.scheduler"])
    found = manifests.named("StatefulSet", "scheduler", manifests.tls_manifests())
    (described,) = manifests.pod(found)["containers"]
    built, here = image("scheduler"), Here(home=tmp_path)
    told = Container(
        arguments=built.entrypoint,
        # The index does not matter here.
        environment=built.environment
        | manifests.environment(described, manifests.tls_manifests())
        | {"PAGODA_SCHEDULER_PREFIX_INDEX": "memory"},
        healthcheck=described["livenessProbe"]["exec"]["command"],
    )
    make_tokens(told, "scheduler", tmp_path)
    with started(here, "scheduler", told) as running:
        wait_until_healthy(here, "scheduler", told, running)
        assert healthcheck.main([here.scheduler("scheduler")]) == 1, "the server does not use TLS"
        running.send_signal(signal.SIGTERM)
        assert running.wait(200) == 0
