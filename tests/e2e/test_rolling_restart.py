"""Tests of a rolling restart: each request of busy clients is answered while every process is restarted in turn."""

import itertools
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from pagoda import healthcheck
from tests.e2e.system import until
from tests.e2e.tiers import GatewayTier, SchedulerTier, Tier, Tiers

PROMPTS = [list(range(3000 + 100 * number, 3040 + 100 * number)) for number in range(2)]
# Longer than a client pauses between its check that a gateway is ready and its request.
GATEWAY_FLAGS = ("--drain-delay-s", "2")


@dataclass
class Clients:
    """Clients that send each request to a ready gateway, like a load balancer."""

    gateways: list[GatewayTier]
    answers: list[list[str]] = field(default_factory=lambda: [[] for _ in PROMPTS])
    """Answers to each prompt."""
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=100) as http:
            for turn in itertools.count(number):
                if self.stop.is_set():
                    return
                gateway = self.gateways[turn % len(self.gateways)]
                if is_ready(http, gateway):
                    self.answers[number].append(ask(http, gateway, PROMPTS[number]))

    def wait_for_more(self, futures: Sequence[Future[None]]) -> None:
        """Wait until each client has another answer, which shows that the last restart happened under load."""
        before = [len(answers) for answers in self.answers]

        def all_have_more() -> bool:
            for future in futures:
                if future.done():
                    future.result()
            return all(len(answers) > number for answers, number in zip(self.answers, before, strict=True))

        until("another answer to each client", all_have_more)


def is_ready(http: httpx.Client, gateway: GatewayTier) -> bool:
    try:
        return http.get(f"{gateway.url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def ask(http: httpx.Client, gateway: GatewayTier, prompt: list[int]) -> str:
    request = {"prompt": prompt, "temperature": 1.0, "seed": 7, "max_tokens": 16, "ignore_eos": True, "stream": True}
    pieces = []
    with http.stream("POST", f"{gateway.url}/v1/completions", json=request) as response:
        assert response.status_code == 200, response.read()
        lines = list(response.iter_lines())
    for line in lines:
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            pieces.append(event["choices"][0]["text"])
    assert "data: [DONE]" in lines
    return "".join(pieces)


class RollingSystem:
    """Two processes of each tier, which can be replaced one by one."""

    def __init__(self, tiers: Tiers) -> None:
        self._tiers = tiers
        self._num_workers = 0
        self.schedulers = [tiers.scheduler(), tiers.scheduler()]
        self._addresses = [scheduler.address for scheduler in self.schedulers]
        self.workers = [self.start_worker(), self.start_worker()]
        self.gateways = [tiers.gateway(self._addresses, *GATEWAY_FLAGS) for _ in range(2)]

    def start_worker(self) -> tuple[str, Tier]:
        """Start a worker, which moves to the scheduler with fewer workers after each restart of a scheduler."""
        self._num_workers += 1
        name = f"worker-{self._num_workers}"
        return name, self._tiers.worker(self._addresses, "--worker-id", name, "--spread-interval-s", "0.5")

    def wait_for_worker(self, name: str) -> None:
        until(f"{name} is attached", lambda: healthcheck.main([",".join(self._addresses), "--worker", name]) == 0)

    def restart_gateway(self, index: int) -> None:
        assert self.gateways[index].stop() == 0
        self.gateways[index] = self._tiers.gateway(self._addresses, *GATEWAY_FLAGS)
        self.gateways[index].wait_until_ready()

    def restart_scheduler(self, index: int) -> None:
        assert self.schedulers[index].stop() == 0
        successor = self.schedulers[index] = self._tiers.scheduler(address=self._addresses[index])
        until("the scheduler listens", lambda: listens(successor))

    def restart_worker(self, index: int) -> None:
        """Start the successor, restart a gateway while it loads, then stop the old worker."""
        name, successor = self.start_worker()
        self.restart_gateway(index)
        self.wait_for_worker(name)
        _, old = self.workers[index]
        assert old.stop() == 0, old.output()
        self.workers[index] = (name, successor)


def listens(scheduler: SchedulerTier) -> bool:
    scheduler.check_running()
    return healthcheck.main([scheduler.address]) == 0


def test_nothing_is_lost_when_everything_is_restarted_in_turn(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The health check finds the schedulers' token there.
    monkeypatch.setenv("PAGODA_HOME", str(home))
    with Tiers(home, tmp_path) as tiers, ThreadPoolExecutor(len(PROMPTS)) as pool:
        system = RollingSystem(tiers)
        for name, _ in system.workers:
            system.wait_for_worker(name)
        for gateway in system.gateways:
            gateway.wait_until_ready()
        with httpx.Client(trust_env=False, timeout=100) as http:
            undisturbed = [ask(http, system.gateways[0], prompt) for prompt in PROMPTS]
        clients = Clients(system.gateways)
        running = [pool.submit(clients.run, number) for number in range(len(PROMPTS))]
        try:
            for index in range(2):
                system.restart_worker(index)
                clients.wait_for_more(running)
            for index in range(2):
                system.restart_scheduler(index)
                clients.wait_for_more(running)
        finally:
            clients.stop.set()
        for future in running:
            future.result()
    for answers, expected in zip(clients.answers, undisturbed, strict=True):
        assert set(answers) == {expected}
