"""Fixtures: one real system for all tests that leave it unchanged, and new ones for the others."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import openai
import pytest

from pagoda.cli.fetch import fetch_model
from pagoda.models.catalogue import DEFAULT_MODEL
from tests.e2e.system import System, ready_system
from tests.fakes.native_code import give_native_code

StartSystem = Callable[..., System]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")
            # A killed worker reloads its model, perhaps on a busy machine.
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PAGODA_HOME with the default model. PAGODA_TEST_HOME keeps the download between runs."""
    if kept := os.environ.get("PAGODA_TEST_HOME"):
        fetch_model(Path(kept), DEFAULT_MODEL)
        return Path(kept)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (shared / "fetching").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory := shared / "home").exists():
            give_native_code(directory)
        fetch_model(directory, DEFAULT_MODEL)
    return directory


@pytest.fixture(scope="session")
def system(home: Path) -> Iterator[System]:
    with ready_system(home, "--kv-memory", "512MiB") as system:
        yield system


@pytest.fixture
def start_system(home: Path) -> Iterator[StartSystem]:
    """Return a function that starts further systems, which end with the test."""
    started: list[System] = []

    def start(*arguments: str) -> System:
        started.append(System(home, *arguments))
        return started[-1]

    yield start
    for system in started:
        system.force_end()


@pytest.fixture(scope="session")
def openai_client(system: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def ollama_client(system: System) -> Iterator[ollama.Client]:
    with ollama.Client(host=system.url) as client:
        yield client
