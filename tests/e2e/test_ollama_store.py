"""`pagoda serve NAME` for a model that only an Ollama installation has: it is served from Ollama's files, which stay unchanged."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from pagoda.models.catalogue import DEFAULT_MODEL
from pagoda.models.store import ModelStore
from tests.e2e.system import System, ready_system
from tests.fakes.native_code import give_native_code
from tests.fakes.ollama_store import FakeOllamaStore, tree_state
from tests.fakes.tiny_model import write_tiny_gguf

NAME = "hf.co/HuggingFaceTB/SmolLM2-135M-Instruct-GGUF:Q4_1"

TEMPLATE = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def installation(home: Path) -> Iterator[FakeOllamaStore]:
    """Yield an Ollama store on the file system of the default model, whose file it shares."""
    directory = home / f"ollama-{os.getpid()}"
    store = FakeOllamaStore(directory / "models")
    store.add(
        NAME,
        ModelStore(home).get(DEFAULT_MODEL).path,
        texts={"system": "You are helpful.", "template": TEMPLATE},
        params={"temperature": 0},
    )
    store.add("tiny", write_tiny_gguf(directory / "tiny.gguf"))
    yield store
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def system(installation: FakeOllamaStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    own_home = give_native_code(tmp_path_factory.mktemp("h"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OLLAMA_MODELS", str(installation.directory))
        with ready_system(own_home, NAME, "--kv-memory", "64MiB", "--ollama-port", "0") as system:
            yield system


def test_a_model_of_ollama_is_served_by_its_name(system: System, installation: FakeOllamaStore) -> None:
    before = tree_state(installation.directory)
    with ollama.Client(host=system.url) as client:
        assert {each.model for each in client.list().models} == {NAME, "tiny:latest"}
        answer = client.chat(
            NAME, [{"role": "user", "content": "Who wrote Romeo and Juliet?"}], options={"num_predict": 20}
        )
        assert "Shakespeare" in (answer.message.content or "")
        assert client.generate(NAME.lower(), "The capital of France is", raw=True, options={"num_predict": 4}).done
        assert [each.model for each in client.ps().models] == [NAME]
        with pytest.raises(ollama.ResponseError, match="belongs to Ollama") as caught:
            client.delete(NAME)
        assert client.generate("tiny", "x", options={"num_predict": 4}).done  # loaded for this request
        assert "tiny:latest" in [each.model for each in client.ps().models]
    assert caught.value.status_code == 409
    assert tree_state(installation.directory) == before
    assert not [path for path in (system.home / "models").rglob("*") if path.stat().st_size > 100_000]
