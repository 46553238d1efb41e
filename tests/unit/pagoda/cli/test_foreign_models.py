"""The commands with models whose files stay where they are: in an Ollama store, or in the hub's cache."""

from pathlib import Path

import pytest

from pagoda.models.store import ModelStore
from tests.fakes.ollama_store import FakeOllamaStore, tree_state
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.cli.test_completion import complete
from tests.unit.pagoda.cli.test_model_commands import Command

NAME = "hf.co/Bartowski/Tiny-GGUF:Q8_0"


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeOllamaStore:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    store = FakeOllamaStore(tmp_path / "ollama")
    store.add(NAME, write_tiny_gguf(tmp_path / "tiny.gguf"), texts={"system": "Be brief."}, params={"top_k": 3})
    return store


@pytest.fixture
def command(tmp_path: Path, ollama: FakeOllamaStore) -> Command:
    return Command(tmp_path / "home")


def test_list_and_show(command: Command, ollama: FakeOllamaStore) -> None:
    assert command("list", "HF.co/bart").stdout.splitlines()[1].startswith(NAME)
    assert command.json("show", "bartowski/tiny-gguf:q8_0")["system"] == "Be brief."
    blob = ModelStore(command.home).get(NAME).path
    modelfile = command("show", NAME, "--modelfile").stdout
    assert f"FROM {NAME}" in modelfile and f"\nFROM {blob}\n" in modelfile and "PARAMETER top_k 3" in modelfile
    (command.home.parent / "Modelfile").write_text(modelfile)
    assert command("create", "again", "-f", str(command.home.parent / "Modelfile")).exit_code == 0
    again = command.json("show", "again")
    assert (again["system"], again["parameters"].split()) == ("Be brief.", ["top_k", "3"])
    assert f"\nFROM {blob}\n" in again["modelfile"]


def test_models_of_ollama_are_removed_only_by_ollama(command: Command, ollama: FakeOllamaStore) -> None:
    before = tree_state(ollama.directory)
    assert command("cp", NAME, "copy").exit_code == 0
    for names in ((NAME,), ("copy", "bartowski/tiny-gguf:q8_0")):
        removed = command("rm", *names)
        assert (removed.exit_code, removed.stdout) == (1, "")
        assert f"model '{NAME}' belongs to Ollama; remove it there: ollama rm {NAME}" in removed.stderr
    removed = command("rm", "copy")
    assert (removed.exit_code, removed.stdout) == (0, "deleted 'copy'\n")
    assert f"the files of 'copy' stay in Ollama's store: {ollama.blobs}" in removed.stderr
    assert f"to remove them too: ollama rm {NAME}\n" in removed.stderr
    assert tree_state(ollama.directory) == before
    assert command("cp", NAME, "copy").exit_code == 0
    ollama.manifest(NAME).unlink()
    ollama.write_manifest("damaged", b"{")
    assert "to remove them too: restart Ollama, which deletes" in command("rm", "copy").stderr


def test_a_modelfile_names_a_file_of_the_hubs_cache(command: Command, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--Org--Repo"
    (repository / "blobs").mkdir(parents=True)
    (snapshot := repository / "snapshots" / ("c0ffee" * 7)[:40]).mkdir(parents=True)
    write_tiny_gguf(repository / "blobs" / ("ab" * 32), seed=1)
    (snapshot / "tiny.gguf").symlink_to(Path("../../blobs", "ab" * 32))
    before = tree_state(repository)
    assert command("create", "mine", "-f", str(snapshot / "tiny.gguf")).exit_code == 0
    assert ModelStore(command.home).get("mine").path == snapshot / "tiny.gguf"
    removed = command("rm", "mine")
    assert f"the files of 'mine' stay in the hub's cache: {snapshot / 'tiny.gguf'}" in removed.stderr
    assert "to remove them too: hf cache rm model/Org/Repo" in removed.stderr
    assert tree_state(repository) == before


def test_completion_has_ollamas_names(command: Command) -> None:
    assert complete(command.home, "pagoda show hf.co/Bart") == [NAME]
