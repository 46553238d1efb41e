"""Tests of `/api/pull` from a hub and a registry: the lines of models with several files, and the errors of the sources."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from pagoda.models.store import ModelStore
from tests.fakes.gateway import RunningGateway, running_gateway
from tests.fakes.hub_server import FakeHub, hub_of_environment
from tests.fakes.registry_server import FakeRegistry, digest_of, registry_of_environment
from tests.fakes.tiny_checkpoint import write_tiny_tokenizer
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_store import HF_CONFIG, write_checkpoint


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hub_of_environment(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    with registry_of_environment(monkeypatch) as registry:
        yield registry


@pytest.fixture(name="gateway")
async def gateway_with_sources(hub: FakeHub, registry: FakeRegistry, short_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(short_path) as running:
        yield running


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return write_tiny_gguf(tmp_path / "other.gguf", seed=1).read_bytes()


def checkpoint(tmp_path: Path) -> dict[str, bytes]:
    directory = write_checkpoint(tmp_path / "checkpoint", HF_CONFIG, num_files=2)
    write_tiny_tokenizer(directory)
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def pull(gateway: RunningGateway, name: str, **fields: Any) -> list[dict[str, Any]]:
    response = await gateway.http.post("/api/pull", json={"model": name, **fields})
    assert response.status_code == 200
    return [json.loads(line) for line in response.text.splitlines()]


async def test_every_file_of_a_checkpoint_ends_at_its_size(
    gateway: RunningGateway, hub: FakeHub, tmp_path: Path
) -> None:
    files = checkpoint(tmp_path)
    hub.add("Org/Checkpoint", files)
    lines = await pull(gateway, "Org/Checkpoint")
    assert lines[-1] == {"status": "success"}, lines
    last = {line["digest"]: line for line in lines if "digest" in line}
    assert all(line["completed"] == line["total"] for line in last.values())
    assert sorted(line["total"] for line in last.values()) == sorted(map(len, files.values()))
    assert {digest.partition(":")[0] for digest in last} == {"sha1", "sha256"}


async def test_a_second_pull_gets_only_what_is_new(
    gateway: RunningGateway, registry: FakeRegistry, tiny: bytes, short_path: Path, tmp_path: Path
) -> None:
    registry.publish("library/new:1", tiny)
    assert (await pull(gateway, "new:1"))[-1] == {"status": "success"}
    weights = f"/storage/{digest_of(tiny)}"
    num_asked = len(registry.requests_of(weights))
    lines = await pull(gateway, "new:1")
    assert [line["status"].split()[0] for line in lines] == ["pulling", "pulling", "verifying", "writing", "success"]
    assert len(registry.requests_of(weights)) == num_asked
    newer = write_tiny_gguf(tmp_path / "newer.gguf", seed=2).read_bytes()
    registry.publish("library/new:1", newer)
    await pull(gateway, "new:1")
    assert f"sha256:{ModelStore(short_path).get('new:1').digest}" == digest_of(newer)


async def test_official_client(gateway: RunningGateway, registry: FakeRegistry, tiny: bytes) -> None:
    registry.publish("library/new:latest", tiny, layers=[("system", b"Be brief.")])
    client = ollama.AsyncClient(host=gateway.url)
    assert [line.status async for line in await client.pull("new", stream=True)][-1] == "success"
    assert 'SYSTEM """Be brief."""' in str((await client.show("new")).modelfile)
    with pytest.raises(ollama.ResponseError, match="other:latest is not at ") as caught:
        await client.pull("other")
    assert caught.value.status_code == 404
    await client.close()  # type: ignore[no-untyped-call]  # the package leaves it untyped


async def test_insecure_is_what_plain_http_needs(gateway: RunningGateway, registry: FakeRegistry, tiny: bytes) -> None:
    registry.publish("me/mine:1", tiny)
    name = f"{registry.host}/me/mine:1"
    assert "error" in (await pull(gateway, name))[-1]
    assert (await pull(gateway, name, insecure=True))[-1] == {"status": "success"}


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("Org/Gated", 403, "Org/Gated"),
        ("Org/Unknown", 404, "Org/Unknown"),
        ("unknown:1b", 404, "unknown:1b"),
        ("strange:1", 400, "architecture 'strange' is not supported"),
        ("Org/No-Model", 400, "Org/No-Model"),
    ],
    ids=["gated", "unknown at the hub", "unknown at the registry", "unusable", "no model in the repository"],
)
async def test_errors(
    gateway: RunningGateway,
    hub: FakeHub,
    registry: FakeRegistry,
    tiny: bytes,
    short_path: Path,
    tmp_path: Path,
    name: str,
    status: int,
    words: str,
) -> None:
    hub.add("Org/Gated", {"tiny.gguf": tiny}, is_gated=True)
    hub.add("Org/No-Model", {"README.md": b"# Nothing"})
    strange = write_tiny_gguf(tmp_path / "strange.gguf", architecture="strange", hidden_size=512, num_layers=4)
    registry.publish("library/strange:1", strange.read_bytes())
    first, last = await pull(gateway, name)
    assert first == {"status": "pulling manifest"}
    whole = await gateway.http.post("/api/pull", json={"model": name, "stream": False})
    assert (whole.status_code, whole.json()) == (status, last)
    assert words in last["error"] and str(short_path) not in last["error"] and "/tmp" not in last["error"]
    assert ModelStore(short_path).list() == []
    fetched = [asked.range for asked in registry.requests_of(f"/storage/{digest_of(strange.read_bytes())}")]
    assert all(asked and int(asked.rpartition("-")[2]) < strange.stat().st_size / 2 for asked in fetched)
