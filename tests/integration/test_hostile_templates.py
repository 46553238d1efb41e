"""Tests that no template stops the gateway: the sender gets a 400, a stream continues, and the loop is never blocked.

tests/unit/gateway/prompts/test_template_renderer.py tries many more, with lower limits.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from tests.fakes.hostile import MODEL, Attack, HostileGateway, hostile_gateway
from tests.templates.hostile import COMPOSED, ENDLESS, INVALID, LARGE, REFUSED

# All tests use the same gateway, with the same stream.
pytestmark = pytest.mark.asyncio(loop_scope="module")

REFUSAL = frozenset({400})
# One template of each kind that reaches the limit of time or memory.
COSTLY: Mapping[str, str] = {
    name: (ENDLESS | LARGE)[name]
    for name in (
        "a doubled list as text",
        "a doubled list as JSON",
        "two doubled lists compared",
        "ranges in ranges",
        "a macro that calls itself",
        "numbers that grow",
        "a text times a number",
        "a text in pieces",
        "a date with a width",
        "centered",
        "everything replaced",
    )
}
CHEAP: Mapping[str, str] = INVALID | REFUSED


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def hostile() -> AsyncIterator[HostileGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with hostile_gateway(Path(directory)) as running:
            yield running


def generate(template: str, statuses: frozenset[int] = REFUSAL) -> Attack:
    body = {"model": MODEL, "prompt": "a", "stream": False, "template": template, "options": {"num_predict": 1}}
    return Attack(path="/api/generate", body=body, statuses=statuses)


@pytest.mark.parametrize("name", COSTLY)
async def test_a_costly_template_fails_alone(gateway: HostileGateway, name: str) -> None:
    response = await gateway.withstands(generate(COSTLY[name]))
    assert "more than" in response.json()["error"]


@pytest.mark.parametrize("name", CHEAP)
async def test_a_wrong_template_is_the_senders_mistake(gateway: HostileGateway, name: str) -> None:
    assert len((await gateway.withstands(generate(CHEAP[name]))).json()["error"]) < 1000


@given(source=COMPOSED)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_a_template_does(gateway: HostileGateway, source: str) -> None:
    await gateway.withstands(generate(source, frozenset({200, 400})))


@pytest.mark.parametrize("size", [65_536, 65_537, 8_000_000])
async def test_a_long_source(gateway: HostileGateway, size: int) -> None:
    await gateway.withstands(generate("{{a}}" * (size // 5 + 1)))
