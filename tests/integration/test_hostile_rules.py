"""Tests that no rule for an answer stops the gateway, as test_hostile_requests.py tests it of other requests."""

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.hostile import Attack, HostileGateway, hostile_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

USER = {"role": "user", "content": "a"}


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="gateway")
async def hostile() -> AsyncIterator[HostileGateway]:
    with tempfile.TemporaryDirectory(prefix="pagoda-") as directory:
        async with hostile_gateway(Path(directory)) as running:
            yield running


def chain(length: int, last: Any) -> dict[str, Any]:
    """Return a schema of objects that each need the next one."""
    links = {
        str(number): {"properties": {"a": {"$ref": f"#/$defs/{number + 1}"}}, "required": ["a"], "type": "object"}
        for number in range(length)
    }
    return {"$defs": {**links, str(length): last}, "$ref": "#/$defs/0"}


TRIGGERS = [
    {"begin": "a", "content": {"type": "any_text"}},
    *([{"begin": "b", "content": {"type": "any_text"}}] * 4000),
]
RULES: dict[str, dict[str, Any]] = {
    "a chain of references": {"json": chain(4000, {"type": "null"})},
    "an endless chain of references": {"json": chain(4000, {"$ref": "#/$defs/0"})},
    "a chain of references as text": {"json": json.dumps(chain(5000, {"type": "null"}))},
    "a text of many values": {"json": "[" + "{}," * 2_000_000 + "{}]"},
    "many properties": {"json": {"properties": {str(number): {} for number in range(12_000)}}},
    "large integers": {"json": {"enum": [2**53] * 700_000}},
    "empty lines": {"grammar": "\n" * 7_000_000},
    "lines of spaces": {"grammar": (" " * 700 + "\n") * 700},
    "words without end": {"grammar": "a" * 500_000},
    "rules of GBNF": {"grammar": "root ::= r0\n" + "\n".join(f'r{n} ::= "a" r{n + 1}' for n in range(5000))},
    "alternatives of GBNF": {"grammar": "root ::= " + " | ".join(["a"] * 30_000)},
    "parts of GBNF": {
        "structural_tag": {
            "format": {
                "type": "or",
                "elements": [{"type": "grammar", "grammar": 'root ::= "a"' + ' | "a"' * 1500}] * 700,
            }
        }
    },
    "characters of GBNF": {"grammar": f"root ::= [{'a-z' * 43_000}]"},
    "an expression": {"regex": "\\" * 7_000_000},
    "choices": {"choice": ["a" * 5000] * 1024},
    "triggers": {"structural_tag": {"triggers": ["a"] * 20_000, "structures": TRIGGERS}},
    "triggers of tags": {
        "structural_tag": {"format": {"type": "triggered_tags", "triggers": ["a"] * 900, "tags": TRIGGERS}}
    },
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
async def test_rules(gateway: HostileGateway, rule: dict[str, Any]) -> None:
    await gateway.withstands(Attack(path="/v1/chat/completions", body={"messages": [USER], "structured_outputs": rule}))
