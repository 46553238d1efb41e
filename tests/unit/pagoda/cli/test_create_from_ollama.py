"""`pagoda create` with Modelfiles as `ollama show --modelfile` prints them, in modelfiles/. Only the directory of FROM differs.

The texts of licences are shortened, and the templates of models that have long ones are made up.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from pagoda.models.modelfile import parse_modelfile
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import CHAT_TEMPLATE, write_tiny_gguf
from tests.integration.test_damaged_models import rewrite
from tests.unit.pagoda.cli.test_model_commands import Command

MODELFILES = {path.stem: path for path in sorted((Path(__file__).parent / "modelfiles").glob("*.Modelfile"))}
OLLAMAS_PLACE = "/usr/share/ollama/.ollama/models"
UNUSED = "TEMPLATE is a Go template; the Jinja template in the model's own files is used instead"
PROJECTOR = "FROM names a projector for images; the model takes only text"

STOPS = {
    "deepseek-r1": ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"],
    "gemma3": ["<end_of_turn>"],
    "llama3.2": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "mistral": ["[INST]", "[/INST]"],
    "my-llama": [" Human: ", "\n\n"],
    "phi4": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>"],
    "qwen3.5": [],
}
WARNINGS = {
    "deepseek-r1": [f"line 6 of the Modelfile: {UNUSED}"],
    "gemma3": [f"line 6 of the Modelfile: {PROJECTOR}", f"line 7 of the Modelfile: {UNUSED}"],
    "llama3.2": [f"line 6 of the Modelfile: {UNUSED}"],
    "mistral": [f"line 6 of the Modelfile: {UNUSED}"],
    "my-llama": [
        "line 16 of the Modelfile: PARAMETER num_keep 24 has no effect; ignored",
        "line 17 of the Modelfile: PARAMETER mirostat 2 is not supported; ignored",
        "line 18 of the Modelfile: PARAMETER tfs_z 0.9 is not supported; ignored",
        f"line 6 of the Modelfile: {UNUSED}",
    ],
    "phi4": [f"line 6 of the Modelfile: {UNUSED}"],
    "qwen3": [f"line 6 of the Modelfile: {UNUSED}"],
    "qwen3.5": [
        "line 8 of the Modelfile: RENDERER is ignored: the model's chat template writes the prompts",
        "line 9 of the Modelfile: PARSER is ignored: Ollama's parsers are not supported",
        f"line 6 of the Modelfile: {PROJECTOR}",
        f"line 7 of the Modelfile: {UNUSED}",
    ],
}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


def copied(name: str, directory: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """Return the Modelfile, with its blobs in `directory`: a tiny model, and a projector if a second FROM names one."""
    text = MODELFILES[name].read_text(encoding="utf-8").replace(OLLAMAS_PLACE, str(directory))
    blobs = [Path(path) for path in re.findall(r"^FROM (.*)$", text, re.MULTILINE)]
    blobs[0].parent.mkdir(parents=True)
    model = write_tiny_gguf(directory / "model.gguf", chat_template=chat_template)
    for blob in blobs[1:]:
        rewrite(model, blob, {"general.architecture": "clip"}, {})
    model.rename(blobs[0])
    modelfile = directory / "Modelfile"
    modelfile.write_text(text, encoding="utf-8")
    return modelfile


@pytest.mark.parametrize("name", STOPS)
def test_each_is_imported_unedited(command: Command, tmp_path: Path, name: str) -> None:
    modelfile = copied(name, tmp_path / "ollama")
    created = command("create", name, "-f", str(modelfile))
    assert created.exit_code == 0, created.stderr
    warnings = [line.removeprefix("warning: ") for line in created.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == WARNINGS[name]
    written = parse_modelfile(modelfile.read_text(encoding="utf-8")).settings
    assert written.parameters.get("stop", []) == STOPS[name]
    shown = command.json("show", name)
    assert shown["template"] == written.template
    assert shown["license"] == "\n".join(written.license) and (written.license or name == "my-llama")
    assert shown["system"] == written.system
    assert shown.get("messages", []) == list(written.messages)
    again = command("show", name, "--modelfile").stdout
    assert parse_modelfile(again).settings.to_json() == written.to_json()


def test_what_a_modelfile_says_is_kept(command: Command, tmp_path: Path) -> None:
    command("create", "mine", "-f", str(copied("my-llama", tmp_path / "ollama")))
    shown = command.json("show", "mine")
    assert shown["system"] == 'You are "Mario".\nAnswer as Mario.'
    assert shown["messages"][1] == {"role": "assistant", "content": 'It\'s me:\n"Mario"!'}
    assert shown["parameters"].splitlines()[0].split() == ["num_ctx", "4096"]


@pytest.mark.parametrize("name", ["my-llama", "qwen3.5"])
def test_a_known_template_is_enough_for_files_without_one(command: Command, tmp_path: Path, name: str) -> None:
    created = command("create", name, "-f", str(copied(name, tmp_path / "ollama", chat_template=None)))
    assert created.exit_code == 0, created.stderr
    assert UNUSED not in created.stderr


@pytest.mark.parametrize("name", ["deepseek-r1", "gemma3", "llama3.2", "mistral", "phi4", "qwen3"])
def test_an_unknown_template_of_files_without_one_is_refused_with_its_line(
    command: Command, tmp_path: Path, name: str
) -> None:
    refused = command("create", name, "-f", str(copied(name, tmp_path / "ollama", chat_template=None)))
    assert refused.exit_code == 1
    line = 7 if name == "gemma3" else 6
    assert refused.stderr.splitlines()[-1] == (
        f"Error: line {line} of the Modelfile: TEMPLATE is a Go template that is not known, "
        "and the model's files have none; write it in Jinja"
    )
    assert command.json("list") == {"models": []}


def test_an_adapter_is_refused_with_its_line(command: Command, tmp_path: Path) -> None:
    refused = command("create", "mine", "-f", str(copied("my-lora", tmp_path / "ollama")))
    assert refused.exit_code == 1
    assert "Error: line 6 of the Modelfile: ADAPTER is not supported, and the model would answer differently" in (
        refused.stderr
    )


def test_the_blobs_of_ollama_stay_as_they_are(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modelfile = copied("gemma3", tmp_path / "ollama")
    blobs = sorted((tmp_path / "ollama" / "blobs").iterdir())
    before = [blob.stat() for blob in blobs]
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    assert command("create", "mine", "-f", str(modelfile)).exit_code == 0
    after = [blob.stat() for blob in blobs]
    assert [(each.st_ino, each.st_nlink, each.st_ctime_ns) for each in after] == [
        (each.st_ino, each.st_nlink, each.st_ctime_ns) for each in before
    ]
    assert ModelStore(command.home).get("mine").path in blobs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM ./nothing/sha256-1", "line 1 of the Modelfile: FROM ./nothing/sha256-1: no such file or directory"),
        ("FROM ./model.gguf\n\nFROM ./model.gguf", "line 3 of the Modelfile: there is a FROM before this one"),
        ("FROM ./projector.gguf", "FROM names only a projector for images"),
    ],
)
def test_from_lines_that_name_no_model(command: Command, tmp_path: Path, text: str, words: str) -> None:
    model = write_tiny_gguf(tmp_path / "model.gguf")
    rewrite(model, tmp_path / "projector.gguf", {"general.architecture": "clip"}, {})
    (tmp_path / "Modelfile").write_text(text)
    refused = command("create", "mine", "-f", str(tmp_path / "Modelfile"))
    assert refused.exit_code == 1 and words in refused.stderr


def test_the_projector_may_come_first(command: Command, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "model.gguf")
    rewrite(model, tmp_path / "projector.gguf", {"general.type": "mmproj"}, {})
    (tmp_path / "Modelfile").write_text("FROM ./projector.gguf\nFROM ./model.gguf\nSYSTEM S")
    created = command("create", "mine", "-f", str(tmp_path / "Modelfile"))
    assert created.exit_code == 0, created.stderr
    assert f"warning: line 1 of the Modelfile: {PROJECTOR}" in created.stderr
    shown: dict[str, Any] = command.json("show", "mine")
    assert shown["system"] == "S"
