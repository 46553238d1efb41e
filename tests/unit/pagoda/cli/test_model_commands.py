"""list, show, rm, cp, create and pull on a store of tiny models: Ollama's output, JSON, and errors of one line."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pagoda.cli.main import app
from pagoda.models.store import ModelStore
from tests.fakes.ollama_store import FakeOllamaStore
from tests.fakes.tiny_model import CHAT_TEMPLATE, write_tiny_gguf
from tests.integration.test_damaged_models import rewrite


class Command:
    """The command with its own store."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env={"PAGODA_HOME": str(self.home)})

    def json(self, *arguments: str) -> dict[str, Any]:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        value: dict[str, Any] = json.loads(result.stdout)
        return value


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    directory = tmp_path / "weights"
    directory.mkdir()
    return write_tiny_gguf(directory / "tiny.gguf")


@pytest.fixture
def command(tmp_path: Path, gguf_file: Path) -> Command:
    """Return the command on a store with one model, `tiny:latest`."""
    command = Command(tmp_path / "home")
    assert command("create", "tiny", "-f", str(gguf_file)).exit_code == 0
    return command


def test_list_has_ollamas_columns(command: Command) -> None:
    digest = ModelStore(command.home).get("tiny").digest
    header, line = command("list").stdout.splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert line.startswith(f"tiny:latest    {digest[:12]}    ") and line.endswith("ago")
    assert command("ls", "TI").stdout.splitlines()[1].startswith("tiny")
    assert command("ls", "other").stdout.split() == header.split()


def test_a_model_that_cannot_be_read_is_named_with_the_reason(command: Command) -> None:
    manifest = command.home / "models" / "bad" / "latest" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{")
    process = [sys.executable, "-P", "-m", "pagoda.cli", "list", "--home", str(command.home)]
    listed = subprocess.run(process, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", "tiny:latest"]
    assert listed.stderr == (
        f"Warning: model cannot be read (manifest={manifest}, reason=\"the manifest of model 'bad:latest' is damaged; "
        'remove the model, and create or pull it again")\n'
    )


@pytest.mark.parametrize(("num_models", "prefix", "line"), [
    (0, "", ""),
    (1, "", "1 model of Ollama cannot be served and is not listed; reasons: pagoda doctor\n"),
    (3, "", "3 models of Ollama cannot be served and are not listed; reasons: pagoda doctor\n"),
    (3, "BERT1", "1 model of Ollama cannot be served and is not listed; reasons: pagoda doctor\n"),
    (3, "tiny", ""),
])  # fmt: skip
def test_models_of_ollama_that_cannot_be_served_are_counted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_models: int, prefix: str, line: str
) -> None:
    ollama, bad = FakeOllamaStore(tmp_path / "ollama"), tmp_path / "bert.gguf"
    bad.write_bytes(b"no model")
    for number in range(num_models):
        ollama.add(f"bert{number}", bad)
    monkeypatch.setenv("OLLAMA_MODELS", str(ollama.directory))
    assert command("list", prefix).stderr == line


def test_list_as_json_is_what_the_api_has(command: Command) -> None:
    (model,) = command.json("list")["models"]
    assert model["name"] == model["model"] == "tiny:latest"
    assert model["details"]["family"] == "llama" and len(model["digest"]) == 64


def test_an_empty_store_lists_nothing(tmp_path: Path) -> None:
    assert Command(tmp_path / "empty").json("list") == {"models": []}


def test_show_has_ollamas_sections(command: Command) -> None:
    lines = command("show", "tiny").stdout.splitlines()
    assert lines[:6] == [
        "  Model",
        "    architecture        llama",
        "    parameters          107.2K",
        "    context length      512",
        "    embedding length    64",
        "    quantization        F32",
    ]
    assert lines[6].startswith("    output format       ")
    assert lines[7:10] == ["", "  Capabilities", "    completion"]


def test_show_verbose_adds_metadata_and_tensors(command: Command) -> None:
    page = command("show", "tiny", "--verbose").stdout
    assert re.search(r"tokenizer\.ggml\.tokens +\[259 values\]", page)
    assert "token_embd.weight" in page and "[259, 64]" in page


def test_show_a_part(command: Command) -> None:
    assert command("show", "tiny", "--template").stdout == CHAT_TEMPLATE + "\n"
    _, comment, base, *_ = command("show", "tiny", "--modelfile").stdout.splitlines()
    assert comment == "# To make a model from this one instead: FROM tiny:latest"
    assert Path(base.removeprefix("FROM ")).name == "model.gguf"
    both = command("show", "tiny", "--template", "--system")
    assert both.exit_code == 1 and "only one of" in both.stderr


def test_show_takes_a_path(command: Command, gguf_file: Path) -> None:
    assert command.json("show", str(gguf_file))["model_info"]["general.architecture"] == "llama"


def test_a_modelfile_makes_a_model_with_settings(command: Command, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text('FROM tiny\nSYSTEM """Be brief.\nBe kind.\nBe a pirate."""\nPARAMETER top_k 3\nLICENSE Free.')
    assert command("create", "pirate:v1", "-f", str(modelfile)).stderr.splitlines()[-1] == "success"
    shown = command.json("show", "pirate:v1")
    assert shown["system"] == "Be brief.\nBe kind.\nBe a pirate."
    assert shown["parameters"].split() == ["top_k", "3"]
    assert shown["details"]["parent_model"] == "tiny:latest"
    page = command("show", "pirate:v1").stdout
    assert "  System\n    Be brief.\n    Be kind.\n    ...\n" in page
    assert "  License\n    Free.\n" in page
    assert "  Parameters\n    top_k    3\n" in page


def test_a_shown_modelfile_makes_the_model_again(command: Command, tmp_path: Path) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text("FROM tiny\nSYSTEM Be brief.\nPARAMETER top_k 3\nPARAMETER use_mmap true\nLICENSE Free.")
    created = command("create", "first", "-f", str(modelfile))
    assert "warning: line 4 of the Modelfile: PARAMETER use_mmap true has no effect" in created.stderr
    modelfile.write_text(command("show", "first", "--modelfile").stdout)
    command("rm", "tiny")
    assert command("create", "second", "-f", str(modelfile)).stderr.splitlines()[-1] == "success"
    first, second = command.json("show", "first"), command.json("show", "second")
    assert (first["system"], first["parameters"]) == (second["system"], second["parameters"])
    digests = [model["digest"] for model in command.json("list")["models"]]
    assert len(digests) == 2 and len(set(digests)) == 1


def test_from_is_relative_to_the_modelfile(command: Command, gguf_file: Path) -> None:
    (gguf_file.parent / "Modelfile").write_text(f"FROM ./{gguf_file.name}\nSYSTEM hello")
    assert command.json("create", "near", "-f", str(gguf_file.parent / "Modelfile")) == {"created": "near"}
    assert command.json("show", "near")["system"] == "hello"


@pytest.mark.parametrize("number", [1, 2])
def test_from_one_part_takes_all_parts(command: Command, tmp_path: Path, number: int) -> None:
    first = write_tiny_gguf(tmp_path / "m.gguf", seed=1, tensors_per_part=12)
    part = first.with_name(f"m-0000{number}-of-00002.gguf")
    (tmp_path / "Modelfile").write_text(f"FROM ./{part.name}")
    assert command.json("create", "near", "-f", str(tmp_path / "Modelfile")) == {"created": "near"}
    assert command.json("create", "direct", "-f", str(part)) == {"created": "direct"}
    digests = {name: ModelStore(command.home).get(name).digest for name in ("near", "direct", str(first))}
    assert len(set(digests.values())) == 1
    modelfile = tmp_path / "Printed"
    modelfile.write_text(command("show", "near", "--modelfile").stdout)
    assert command("create", "again", "-f", str(modelfile)).exit_code == 0
    first.with_name("m-00002-of-00002.gguf").rename(tmp_path / "elsewhere.gguf")
    failed = command("create", "new", "-f", str(first))
    assert failed.exit_code == 1
    assert "m-00002-of-00002.gguf is missing: it is part 2 of 2" in failed.stderr.splitlines()[-1]


def test_copy_and_remove(command: Command) -> None:
    assert command("cp", "tiny", "other:1").stdout == "copied 'tiny' to 'other:1'\n"
    assert {model["name"] for model in command.json("list")["models"]} == {"tiny:latest", "other:1"}
    assert command("rm", "tiny", "other:1").stdout == "deleted 'tiny'\ndeleted 'other:1'\n"
    assert command.json("list") == {"models": []}


def test_nothing_is_removed_unless_all_are_there(command: Command) -> None:
    refused = command("rm", "tiny", "nothing")
    assert refused.exit_code == 1
    assert refused.stderr == "Error: model 'nothing' not found; to list the models: pagoda list\n"
    assert len(command.json("list")["models"]) == 1


def test_pull_says_where_a_model_is(command: Command) -> None:
    assert command("pull", "tiny").stdout.startswith("tiny:latest is at ")
    assert Path(command.json("pull", "tiny")["path"]).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nothing"], "model 'nothing' is not on this machine (here: tiny:latest)"),
        (["show", "./nothing.gguf"], "no such file or directory"),
        (["cp", "nothing", "else"], "model 'nothing' not found"),
        (["cp", "tiny", "not a name"], "'not a name' is neither a model name"),
        (["create", "new", "-f", "no-such-file"], "no such file: no-such-file; write a Modelfile"),
        (["create", "not a name"], "'not a name' is neither a model name"),
        (["pull", "not a name"], "'not a name' is neither a model name"),
        (["pull", "./nothing.gguf"], "no such file or directory"),
    ],
)
def test_errors_are_one_sentence(command: Command, arguments: list[str], words: str) -> None:
    failed = command(*arguments)
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("Error: ") and len(failed.stderr.splitlines()) == 1
    assert words in failed.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM ./nothing.gguf", "FROM ./nothing.gguf: no such file or directory"),
        ("FROM no such", "'no such' is neither a model name"),
        ("ADAPTER x", "ADAPTER is not supported"),
    ],
)
def test_a_modelfile_that_cannot_be_followed(command: Command, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "Modelfile").write_text(text)
    failed = command("create", "new", "-f", str(tmp_path / "Modelfile"))
    assert failed.exit_code == 1 and words in failed.stderr


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"tokenizer.ggml.pre": "of-tomorrow"}, "model.gguf: the pre-tokenizer 'of-tomorrow' is not supported"),
        ({"tokenizer.chat_template": "{% for %}"}, "the chat template cannot be used"),
        ({"llama.block_count": 1}, "tensors that the model does not use"),
    ],
)
def test_what_could_not_be_used_is_not_made(
    command: Command, tmp_path: Path, metadata: dict[str, Any], words: str
) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf")
    failed = command("create", "new", "-f", str(rewrite(whole, tmp_path / "unusable.gguf", metadata, {})))
    assert failed.exit_code == 1 and words in failed.stderr
    assert len(command.json("list")["models"]) == 1


def test_weights_that_are_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    failed = command("create", "new", "-f", str(tmp_path / "bad.gguf"))
    assert failed.exit_code == 1 and failed.stderr.splitlines()[-1].startswith("Error: model.gguf")
    assert len(command.json("list")["models"]) == 1
