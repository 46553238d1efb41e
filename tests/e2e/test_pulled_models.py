"""Tests of models that are pulled by name: by `pagoda serve`, `pagoda run`, `pagoda pull`, official clients, and requests.

A registry of the test publishes the default model's file under other names.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ollama
import openai
import pytest

from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from tests.e2e.system import DEADLINE_S, System, until
from tests.fakes.hub_server import running_hub
from tests.fakes.native_code import give_native_code
from tests.fakes.registry_server import FakeRegistry, fake_registry

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
GREEDY = {"temperature": 0, "num_predict": 24}
FLAGS = ("--kv-memory", "256MiB", "--sampling-defaults", "neutral")


@pytest.fixture(scope="module")
def gguf(home: Path) -> bytes:
    return ModelStore(home).get(DEFAULT_MODEL).path.read_bytes()


@pytest.fixture
def registry(gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    with fake_registry() as registry, running_hub() as hub:
        for name in ("library/pocket:135m", "library/coat:latest", "someone/hat:tall"):
            registry.publish(name, gguf)
        monkeypatch.setenv("PAGODA_REGISTRY", registry.url)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)  # it has no repository
        yield registry


@pytest.fixture
def empty_home(tmp_path: Path) -> Path:
    return give_native_code(tmp_path / "home")


def command(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_command(home, *arguments), capture_output=True, text=True, timeout=DEADLINE_S)


def _command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pagoda.cli", *arguments, "--home", str(home)]


def test_serve_pulls_its_model_and_clients_pull_others(registry: FakeRegistry, empty_home: Path) -> None:
    system = System(empty_home, "pocket:135m", "--pull-on-demand", *FLAGS)
    try:
        system.wait_until_ready()
        assert "pocket:135m (Q4_1" in system.read_banner()
        with openai.OpenAI(base_url=f"{system.url}/v1", api_key="none", max_retries=0) as client:
            whole = client.chat.completions.create(
                model="pocket:135m",
                messages=[{"role": "user", "content": "What is the capital of Japan?"}],
                temperature=0,
                max_tokens=24,
            )
            assert "Tokyo" in str(whole.choices[0].message.content)
            # On demand, as a stream.
            stream = client.chat.completions.create(
                model="coat",
                messages=[{"role": "user", "content": "What is the capital of Japan?"}],
                temperature=0,
                max_tokens=24,
                stream=True,
            )
            assert "Tokyo" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        with ollama.Client(host=system.url) as client:
            lines = list(client.pull("someone/hat:tall", stream=True))
            statuses = [line.status for line in lines]
            assert statuses[0] == "pulling manifest"
            assert statuses[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
            last = [line for line in lines if line.digest][-1]
            assert last.completed == last.total == len(registry.blobs[str(last.digest)])
            answer = client.chat(model="someone/hat:tall", messages=QUESTION, options=GREEDY)
            assert "Tokyo" in str(answer.message.content)
            assert {model.model for model in client.list().models} == {"pocket:135m", "coat:latest", "someone/hat:tall"}
            with pytest.raises(ollama.ResponseError, match="nothing"):
                client.pull("nothing:here")
        assert system.stop() == 0
    finally:
        system.force_end()


def test_run_pulls_its_model(registry: FakeRegistry, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGODA_WORKER_KV_MEMORY", "256MiB")
    done = command(empty_home, "run", "pocket:135m", "What is the capital of Japan?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "pocket:135m: downloading, 100% of 98 MB" in done.stderr
    listed = json.loads(command(empty_home, "list", "--json").stdout)["models"]
    assert [model["name"] for model in listed] == ["pocket:135m"]


def test_a_killed_pull_resumes(registry: FakeRegistry, empty_home: Path, gguf: bytes) -> None:
    registry.holds_at = len(gguf) // 2
    pulling = subprocess.Popen(_command(empty_home, "pull", "pocket:135m"), stderr=subprocess.DEVNULL)
    try:
        blobs = empty_home / "models" / "blobs"
        until("half of the file is here", lambda: _bytes_in(blobs) > len(gguf) // 3)
    finally:
        pulling.kill()
        pulling.wait()
    assert not ModelStore(empty_home).list()
    registry.holds_at = None
    num_asked = len(registry.asked)
    done = command(empty_home, "pull", "pocket:135m")
    assert done.returncode == 0, done.stderr
    starts = [
        int(asked.range.removeprefix("bytes=").partition("-")[0])
        for asked in registry.asked[num_asked:]
        if asked.range is not None and "/storage/" in asked.path
    ]
    assert max(starts) > len(gguf) // 4
    assert ModelStore(empty_home).get("pocket:135m").path.read_bytes() == gguf
    assert "checking" in done.stderr and "verifying sha256" in done.stderr


def _bytes_in(directory: Path) -> int:
    """Return how much space the files take, since an unfinished file may be sparse."""
    return sum(path.stat().st_blocks * 512 for path in directory.glob("*")) if directory.is_dir() else 0
