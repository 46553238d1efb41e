"""Tests of clients that other projects make, unchanged: schemas and forced calls on the default model, agents on a scripted one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda.models.catalogue import DEFAULT_MODEL
from tests.e2e.clients.installing import CLIENTS, Client, run_program
from tests.e2e.system import System
from tests.fakes.documented_replies import violations
from tests.fakes.gateway import MODEL
from tests.fakes.scripted_agent import scripted_agent

pytestmark = pytest.mark.large


@pytest.fixture(scope="module")
def scripted_url() -> Iterator[str]:
    with scripted_agent() as url:
        yield url


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_the_client_works(client: Client, system: System, scripted_url: str, tmp_path: Path) -> None:
    command = client.install(tmp_path)
    violations.clear()
    variables = {
        "REAL_URL": system.url,
        "SCRIPTED_URL": scripted_url,
        "MODEL": DEFAULT_MODEL,
        "SCRIPTED_MODEL": MODEL,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # It would fetch a list of prices.
    }
    print(run_program(command, tmp_path, variables))
    assert violations == []
