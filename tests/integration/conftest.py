"""The gateway in front of a fake scheduler, for the tests of this folder."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.fakes.documented_replies import violations
from tests.fakes.gateway import RunningGateway, running_gateway


@pytest.fixture(autouse=True)
def _replies_are_documented() -> Iterator[None]:
    """Fail the test if a gateway of this process answered something that its API document does not say."""
    violations.clear()
    yield
    assert not violations, "\n".join(violations)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a unix socket's name, which pytest's own may not."""
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        yield Path(directory)


@pytest.fixture
async def gateway(short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path) as running:
        yield running
