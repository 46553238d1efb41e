"""The three tiers started one by one, as on several machines, for systems that `pagoda serve` does not start.

Each tier is a separate process, observed only as a user observes it. It writes its log to a file, because a pipe that is not read
would block it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.settings import GatewaySettings
from pagoda.rpc.cluster_tokens import HOME_TOKEN_FILE, make_token_file
from pagoda.rpc.transport_security import TransportSecurity
from tests.e2e.system import DEADLINE_S, NEUTRAL, free_port, read_metric, until

INFERENCE_SERVICE = "protos.v1.InferenceService"
# Several workers share the machine. Flags override these.
WORKER_DEFAULTS = {"PAGODA_WORKER_KV_MEMORY": "128MiB", "PAGODA_WORKER_THREADS": "1"}
Environment = Mapping[str, str]
NOTHING: Environment = MappingProxyType({})


class Tier:
    """A process that runs until `stop`, `kill` or the end of its `Tiers`."""

    def __init__(self, tier: str, home: Path, log: Path, arguments: Sequence[str], environment: Environment) -> None:
        self.log = log
        command = [sys.executable, "-P", "-m", tier, "--home", str(home), *arguments]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **environment}, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def check_running(self) -> None:
        assert self.is_running, f"ended with {self.process.returncode}: {self.output()}"

    def freeze(self) -> None:
        """Stop the process, with all its connections open, until `thaw`."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def output(self) -> str:
        """Return the log so far."""
        return self.log.read_text()


T = TypeVar("T", bound=Tier)


class SchedulerTier(Tier):
    address: str
    security: TransportSecurity
    """Credentials with which a test calls the scheduler: its home's token, which is valid for every role."""

    @property
    def is_serving(self) -> bool:
        """True if its health service says that a worker is attached and that it is not draining."""
        self.check_running()
        request = health_pb2.HealthCheckRequest(service=INFERENCE_SERVICE)
        # A proxy in the environment must not be used on this machine.
        with grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)]) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=DEADLINE_S)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_until_serving(self) -> None:
        until(f"the scheduler at {self.address} serves", lambda: self.is_serving)


class GatewayTier(Tier):
    port: int
    url: str

    @property
    def is_ready(self) -> bool:
        self.check_running()
        try:
            return httpx.get(f"{self.url}/ready", timeout=DEADLINE_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        until(f"{self.url}/ready answers 200", lambda: self.is_ready)

    def metric(self, name: str, **labels: str) -> float:
        return read_metric(self.url, name, **labels)


class Tiers:
    """A set of tiers that end together. `home` has the model; logs go to `directory`. Addresses are ports of 127.0.0.1."""

    def __init__(self, home: Path, directory: Path) -> None:
        self._home = home
        self._directory = directory
        self._started: list[Tier] = []
        # A scheduler would create it too late for a call that starts before the scheduler does.
        make_token_file(home / HOME_TOKEN_FILE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for tier in self._started:
            if tier.is_running:
                tier.kill()

    def scheduler(
        self, *arguments: str, address: str | None = None, environment: Environment = NOTHING
    ) -> SchedulerTier:
        """Start a scheduler at the given address, such as that of an ended one, or at a new one."""
        address = address or f"127.0.0.1:{free_port()}"
        tier = self._start(SchedulerTier, "scheduler", ["--listen", address, *arguments], environment)
        tier.address, tier.security = address, GatewaySettings(home=self._home).security
        return tier

    def worker(
        self, schedulers: Sequence[SchedulerTier | str], *arguments: str, environment: Environment = NOTHING
    ) -> Tier:
        """Start a worker, which attaches to the first of these schedulers that accepts it."""
        flags = ["--scheduler", _listed(schedulers), *arguments]
        return self._start(Tier, "worker", flags, {**WORKER_DEFAULTS, **environment})

    def gateway(
        self,
        schedulers: Sequence[SchedulerTier | str],
        *arguments: str,
        port: int | None = None,
        environment: Environment = NOTHING,
    ) -> GatewayTier:
        """Start a gateway at the given port, such as that of an ended one, or at a new one."""
        port = port or free_port()
        flags = ["--scheduler", _listed(schedulers), "--port", str(port), "--ollama-port", "0", *NEUTRAL]
        tier = self._start(GatewayTier, "gateway", [*flags, *arguments], environment)
        tier.port, tier.url = port, f"http://127.0.0.1:{port}"
        return tier

    def _start(self, kind: type[T], tier: str, arguments: Sequence[str], environment: Environment) -> T:
        log = self._directory / f"{len(self._started)}-{tier}.log"
        started = kind(tier, self._home, log, arguments, environment)
        self._started.append(started)
        return started


def _listed(schedulers: Sequence[SchedulerTier | str]) -> str:
    return ",".join(each if isinstance(each, str) else each.address for each in schedulers)
