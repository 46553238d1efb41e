"""A gateway on a machine without weights, a worker on one that has them, and a hub that records what each of them asks."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pagoda.models.pull import open_puller
from pagoda.rpc.cluster_tokens import HOME_TOKEN_FILE
from tests.e2e.system import DEADLINE_S
from tests.e2e.tiers import GatewayTier, SchedulerTier, Tiers
from tests.fakes.hub_server import FakeHub, hub_of_environment
from tests.fakes.native_code import give_native_code
from tests.fakes.tiny_model import write_tiny_gguf

NAME = "Org/Big-GGUF"
HELLO = {"model": NAME, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    """Return a model that is much larger than what is fetched of a header."""
    path = write_tiny_gguf(tmp_path / "big.gguf", num_layers=5, hidden_size=256, intermediate_size=1024)
    return path.read_bytes()


@pytest.fixture
def hub(model: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hub_of_environment(monkeypatch, tmp_path) as hub:
        hub.add(NAME, {"big-Q8_0.gguf": model, "README.md": b"# Big"})
        yield hub


@pytest.fixture
def worker_tiers(hub: FakeHub, tmp_path: Path, short_path: Path) -> Iterator[Tiers]:
    """Yield the tiers of the machine that has the weights, with a scheduler and a worker."""
    home = give_native_code(tmp_path / "worker")
    open_puller(home).pull(NAME, lambda progress: None)
    hub.seen.clear()
    with Tiers(home, short_path) as tiers:
        yield tiers


@pytest.fixture
def scheduler(worker_tiers: Tiers) -> SchedulerTier:
    scheduler = worker_tiers.scheduler()
    worker_tiers.worker([scheduler], "--model", NAME)
    scheduler.wait_until_serving()
    return scheduler


@pytest.fixture
def gateway_tiers(worker_tiers: Tiers, tmp_path: Path) -> Iterator[Tiers]:
    """Yield the tiers of a machine that has nothing but the cluster token."""
    home = tmp_path / "gateway"
    home.mkdir()
    shutil.copy(tmp_path / "worker" / HOME_TOKEN_FILE, home / HOME_TOKEN_FILE)
    logs = tmp_path / "logs"
    logs.mkdir()
    with Tiers(home, logs) as tiers:
        yield tiers


def ready(gateway: GatewayTier) -> httpx.Client:
    gateway.wait_until_ready()
    return httpx.Client(base_url=gateway.url, timeout=DEADLINE_S, trust_env=False)


def answer(http: httpx.Client) -> str:
    response = http.post("/v1/chat/completions", json=HELLO)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def fetched_bytes(hub: FakeHub) -> int:
    """Return how many bytes of large files were asked for. Each such request must name a range."""
    ranges = [seen.range for seen in hub.seen if seen.path.startswith("/storage/") and seen.method == "GET"]
    assert ranges and None not in ranges
    bounds = [re.fullmatch(r"bytes=(\d+)-(\d+)", str(each)) for each in ranges]
    return sum(int(each[2]) - int(each[1]) + 1 for each in bounds if each is not None)


def test_a_gateway_without_weights_answers_like_one_with_them(
    hub: FakeHub, model: bytes, scheduler: SchedulerTier, worker_tiers: Tiers, gateway_tiers: Tiers, tmp_path: Path
) -> None:
    gateway = gateway_tiers.gateway([scheduler], "--model", NAME)
    with ready(gateway) as http:
        text = answer(http)
        assert fetched_bytes(hub) < len(model) / 5
        assert "model fetched without weights" in gateway.output()
        assert "another version" not in gateway.output()
        (listed,) = http.get("/api/tags").json()["models"]
        (running,) = http.get("/api/ps").json()["models"]
        assert (listed["digest"], listed["size"]) == (running["digest"], len(model))
        for path, body in (
            ("/api/copy", {"source": NAME, "destination": "copy"}),
            ("/api/create", {"model": "mine", "from": NAME, "stream": False}),
        ):
            refused = http.post(path, json=body)
            assert refused.status_code == 409 and "the weights of the model" in refused.json()["error"]
    assert not (tmp_path / "gateway" / "models" / "org%2fbig-gguf").exists()
    with_weights = worker_tiers.gateway([scheduler], "--model", NAME)
    with ready(with_weights) as http:
        assert answer(http) == text
    assert "without weights" not in with_weights.output()


def test_a_restarted_gateway_needs_no_network(
    hub: FakeHub, scheduler: SchedulerTier, gateway_tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gateway_tiers.gateway([scheduler], "--model", NAME)
    with ready(first) as http:
        text = answer(http)
    assert first.stop() == 0
    num_seen = len(hub.seen)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with ready(gateway_tiers.gateway([scheduler], "--model", NAME)) as http:
        assert answer(http) == text
    assert len(hub.seen) == num_seen


def test_workers_with_another_version_are_reported(
    hub: FakeHub, scheduler: SchedulerTier, gateway_tiers: Tiers, tmp_path: Path
) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1, num_layers=5, hidden_size=256, intermediate_size=1024)
    hub.commit(NAME, {"big-Q8_0.gguf": other.read_bytes()})
    gateway = gateway_tiers.gateway([scheduler], "--model", NAME)
    with ready(gateway) as http:
        answer(http)
    assert gateway.output().count("workers have another version of a model") == 1


def test_a_gateway_that_cannot_get_its_model_says_why(
    scheduler: SchedulerTier, gateway_tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAGODA_REGISTRY", "http://127.0.0.1:1")
    gateway = gateway_tiers.gateway([scheduler], "--model", "Org/Other")
    assert gateway.process.wait(DEADLINE_S) == 1
    last = gateway.output().splitlines()[-1]
    assert last.startswith("pagoda gateway: ") and "Org/Other" in last, last
