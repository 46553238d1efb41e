"""`pagoda pull`, and models that other commands pull, from a registry and a hub of the test."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pagoda.cli.main import app
from pagoda.models.store import ModelStore
from tests.fakes.hub_server import FakeHub, hub_of_environment
from tests.fakes.registry_server import FakeRegistry, registry_of_environment
from tests.fakes.tiny_model import write_tiny_gguf
from tests.integration.test_damaged_models import rewrite


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegistry]:
    with registry_of_environment(monkeypatch) as registry:
        yield registry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with hub_of_environment(monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def tiny(tmp_path: Path) -> bytes:
    return write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()


def run(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)])


def test_a_pull_says_what_happens_and_what_is_not_used(registry: FakeRegistry, tmp_path: Path, tiny: bytes) -> None:
    registry.publish("library/qwen:1b", tiny, layers=[("projector", b"for images")])
    pulled = run(tmp_path / "home", "pull", "qwen:1b")
    assert pulled.exit_code == 0, pulled.stderr
    warning, *lines = pulled.stderr.splitlines()
    assert warning.startswith("Warning: ") and "projector" in warning
    assert lines[0] == "qwen:1b: checking registry.ollama.ai/library/qwen:1b"
    assert lines[-2:] == ["qwen:1b: downloading, 100% of 434 KB", "qwen:1b: verifying sha256"]
    assert pulled.stdout.startswith("qwen:1b is at ")
    assert run(tmp_path / "home", "pull", "qwen:1b").stderr == "qwen:1b: up to date\n"


def test_pull_gets_a_newer_version_and_other_commands_do_not(
    registry: FakeRegistry, tmp_path: Path, tiny: bytes
) -> None:
    home, modelfile = tmp_path / "home", tmp_path / "Modelfile"
    registry.publish("library/qwen:1b", tiny)
    modelfile.write_text("FROM qwen:1b")
    assert run(home, "create", "mine", "-f", str(modelfile)).exit_code == 0
    first = ModelStore(home).get("qwen:1b").digest
    registry.publish("library/qwen:1b", write_tiny_gguf(tmp_path / "newer.gguf", seed=1).read_bytes())
    assert run(home, "create", "mine", "-f", str(modelfile)).exit_code == 0
    assert ModelStore(home).get("mine").digest == ModelStore(home).get("qwen:1b").digest == first
    assert run(home, "pull", "qwen:1b").exit_code == 0
    assert ModelStore(home).get("qwen:1b").digest != first


def test_a_model_of_the_hub(hub: FakeHub, tmp_path: Path, tiny: bytes) -> None:
    hub.add("Org/Repo-GGUF", {"model-Q8_0.gguf": tiny, "model-Q4_0.gguf": b"another"})
    pulled = run(tmp_path / "home", "pull", "Org/Repo-GGUF:Q8_0", "--json")
    assert pulled.exit_code == 0, pulled.stderr
    assert json.loads(pulled.stdout)["name"] == "Org/Repo-GGUF:Q8_0"
    shown = run(tmp_path / "home", "show", "org/repo-gguf:q8_0")
    assert "architecture        llama" in shown.stdout


def test_insecure(registry: FakeRegistry, tmp_path: Path, tiny: bytes) -> None:
    registry.publish("me/mine:1", tiny)
    name = f"{registry.host}/me/mine:1"
    assert run(tmp_path / "home", "pull", name).exit_code == 1
    assert run(tmp_path / "home", "pull", name, "--insecure").exit_code == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unknown:1b", "unknown:1b is not at registry.ollama.ai; its library: https://ollama.com/library"),
        ("lama3.2", "; did you mean llama3.2 or llama3.3?"),
        ("https://example.com/my.gguf", "is not the address of a model"),
        ("Org/Unknown", "Org/Unknown"),
        ("Org/Gated", "Org/Gated"),
        ("strange:1", "the pre-tokenizer 'of-tomorrow' is not supported"),
    ],
)
def test_errors_are_one_sentence(
    registry: FakeRegistry, hub: FakeHub, tmp_path: Path, tiny: bytes, name: str, words: str
) -> None:
    hub.add("Org/Gated", {"tiny.gguf": tiny}, is_gated=True)
    strange = rewrite(tmp_path / "tiny.gguf", tmp_path / "strange.gguf", {"tokenizer.ggml.pre": "of-tomorrow"}, {})
    registry.publish("library/strange:1", strange.read_bytes())
    failed = run(tmp_path / "home", "pull", name)
    assert failed.exit_code == 1 and failed.stdout == ""
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("Error: ") and words in last
    assert "downloading" not in failed.stderr


def test_a_go_template_that_is_not_known_is_pulled_but_cannot_be_put_into_a_modelfile(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    """A pulled model still completes; a Modelfile without a TEMPLATE may use it, too."""
    home, modelfile, template = tmp_path / "home", tmp_path / "Modelfile", "{{ .System }}: {{ .Prompt }}"
    base = write_tiny_gguf(tmp_path / "base.gguf", chat_template=None).read_bytes()
    registry.publish("library/base:1b", base, layers=[("template", template.encode())])
    pulled = run(home, "pull", "base:1b")
    assert pulled.exit_code == 0, pulled.stderr
    last = pulled.stderr.splitlines()[-1]
    assert last.startswith("Warning: base:1b completes texts, but cannot chat: the model's template is a Go template")
    assert "cannot chat" not in run(home, "pull", "base:1b").stderr
    assert run(home, "show", "base:1b", "--template").stdout == template + "\n"
    modelfile.write_text("FROM base:1b\nSYSTEM S")
    assert run(home, "create", "child", "-f", str(modelfile)).exit_code == 0
    modelfile.write_text(run(home, "show", "base:1b", "--modelfile").stdout)
    refused = run(home, "create", "again", "-f", str(modelfile))
    line = modelfile.read_text().splitlines().index(f'TEMPLATE """{template}"""') + 1
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1].startswith(f"Error: line {line} of the Modelfile: TEMPLATE is a Go template")
