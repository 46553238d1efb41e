"""Models whose files stay in the hub's cache: copies, derived models, deletion, and files that vanish there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagoda.cli.doctor.models import check_models
from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelFormatError
from pagoda.models.foreign_files import ForeignFiles
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama_objects import listed, shown
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.stored_settings import read_settings
from tests.fakes.hub_server import FakeHub, running_hub
from tests.fakes.hub_user import HubUser
from tests.fakes.ollama_store import tree_state
from tests.fakes.tiny_checkpoint import write_complete_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf
from worker.loading.local_models import LocalModels
from worker.settings import WorkerSettings

GGUF, CHECKPOINT = "Org/Tiny-GGUF:Q8_0", "Org/Tiny"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagoda.models.sources.hub_client.RETRY_DELAYS_S", (0.0, 0.0))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.add("Org/Tiny-GGUF", {"tiny-Q8_0.gguf": write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()})
        checkpoint = write_complete_checkpoint(tmp_path / "checkpoint", num_files=2)
        hub.add("Org/Tiny", {path.name: path.read_bytes() for path in checkpoint.iterdir()})
        yield hub


@pytest.fixture
def user(hub: FakeHub, tmp_path: Path) -> HubUser:
    return HubUser(hub, tmp_path)


@pytest.fixture
def editor(user: HubUser) -> ModelEditor:
    return ModelEditor(user.store, BlobStore(user.home))


def ignore(status: str) -> None:
    pass


def files_of(model: Model) -> dict[str, Path]:
    paths = [model.path] if model.path.is_file() else sorted(model.path.iterdir())
    return {path.name: path for path in paths}


@pytest.mark.parametrize("name", [GGUF, CHECKPOINT])
def test_all_models_with_the_same_files_name_the_same_place(user: HubUser, editor: ModelEditor, name: str) -> None:
    model = user.pull(name)
    before = tree_state(user.cache)
    editor.copy(name, "copy")
    editor.create_from_model("derived", model, ModelSettings(system="S"), ignore)
    editor.create_from_model("again", user.store.get("derived"), ModelSettings(parameters={"top_k": 1}), ignore)
    editor.create_from_model("from-path", user.store.get(str(model.path)), ModelSettings(), ignore)
    editor.create_from_files("from-files", files_of(model), ModelSettings(system="T"), ignore)
    names = ["again:latest", "copy:latest", "derived:latest", "from-files:latest", "from-path:latest"]
    stored = {each.name: each for each in user.store.list()}
    assert sorted(stored.keys() - {model.name}) == names
    for each in stored.values():
        assert (each.digest, each.format) == (model.digest, model.format)
        assert user.manifest(each)["path"] == str(each.path)
        assert each.path.is_relative_to(user.cache)
        assert listed(each)["size"] == model.size_bytes
        assert shown(each, SamplingPolicy(), verbose=True)["details"]["format"] == model.format.value
    assert listed(stored["copy:latest"])["digest"] == listed(model)["digest"] == model.digest
    assert read_settings(stored["again:latest"]).to_json() == {
        "parent": "derived:latest",
        "system": "S",
        "parameters": {"top_k": 1},
    }
    assert not [path for path in user.home.rglob("*") if path.suffix in (".gguf", ".safetensors")]
    for deleted in ("copy", name, "derived"):
        editor.delete(deleted)
    assert [found.level for found in check_models(user.home, deep=True)] == ["ok"]
    assert tree_state(user.cache) == before


def test_a_link_to_a_file_of_the_cache_counts_as_that_file(user: HubUser, editor: ModelEditor, tmp_path: Path) -> None:
    model = user.pull(GGUF)
    before = tree_state(user.cache)
    link = tmp_path / "mine.gguf"
    link.symlink_to(model.path)
    editor.create_from_files("mine", {link.name: link}, ModelSettings(), ignore)
    mine = user.store.get("mine")
    assert mine.path == model.path.resolve() and mine.digest == model.digest
    assert tree_state(user.cache) == before


def test_deleting_says_where_the_files_stay(user: HubUser, editor: ModelEditor, tmp_path: Path) -> None:
    model = user.pull(GGUF)
    place = editor.find_foreign_files(GGUF)
    assert place is not None
    assert (place.path, place.place) == (model.path, "the hub's cache")
    assert editor.foreign_files.removal_of(place) == "hf cache rm model/Org/Tiny-GGUF"
    file = write_tiny_gguf(tmp_path / "own.gguf", seed=3)
    editor.create_from_files("own", {file.name: file}, ModelSettings(), ignore)
    assert editor.find_foreign_files("own") is None
    assert model.manifest is not None
    model.manifest.write_text("{")
    assert editor.find_foreign_files(GGUF) is None


@pytest.mark.parametrize("name", [GGUF, CHECKPOINT])
@pytest.mark.parametrize("is_whole", [True, False], ids=["repository", "blob"])
def test_files_that_are_gone_are_noticed_and_pulled_again(
    user: HubUser, tmp_path: Path, name: str, is_whole: bool
) -> None:
    own = write_tiny_gguf(tmp_path / "own.gguf", seed=3)
    model = user.pull(name)
    worker = LocalModels(WorkerSettings(home=user.home, model=str(own), scheduler="unix:/none"))
    worker.refresh()
    weights = next(path for path in files_of(model).values() if path.suffix in (".gguf", ".safetensors"))
    if is_whole:
        shutil.rmtree(user.cache)
    else:
        weights.resolve().unlink()
    reason = rf"of model '{name}(:latest)?' is no longer in the hub's cache; pull it again: pagoda pull"
    with pytest.raises(ModelFormatError, match=reason) as caught:
        user.store.get(name)
    assert str(user.cache) not in str(caught.value)
    assert user.store.list() == []
    assert [found.level for found in check_models(user.home, deep=False)] == ["problem"]
    assert worker.refresh() and [each.name for each in worker.loadable_models().models] == ["own"]
    assert user.pull(name).digest == model.digest
    assert worker.refresh() and len(worker.loadable_models().models) == 2


def test_what_is_in_no_place_of_another_program(tmp_path: Path) -> None:
    places = ForeignFiles([])
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for path in (circle, tmp_path, tmp_path / "models--a" / "x", tmp_path / "nothing", Path("models--a--b")):
        assert places.find(path) is None and places.digest_of(path) is None
    assert places.find_common({}) is None
    found = places.find(tmp_path / "models--a--b" / "snapshots" / "c" / "x.gguf")
    assert found is not None and places.removal_of(found) == "hf cache rm model/a/b"
