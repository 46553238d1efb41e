"""Fixtures: the gateway in front of a fake scheduler."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.upstream import schedulers
from tests.fakes.documented_replies import violations
from tests.fakes.gateway import RunningGateway, running_gateway


@pytest.fixture(autouse=True)
def _replies_are_documented() -> Iterator[None]:
    """Fail the test if a gateway of this process answered something that its API document does not say."""
    violations.clear()
    yield
    assert not violations, "\n".join(violations)


@pytest.fixture(autouse=True)
def patient_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gateway wait for a scheduler's models. On a busy machine it would else use the answer of a second ago."""
    monkeypatch.setattr(schedulers, "ANSWER_LIMIT_S", 60.0)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Yield a directory with a path that is short enough for a unix socket; pytest's own may be too long."""
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        yield Path(directory)


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path) as running:
        yield running
