"""The store of an Ollama installation: its models are listed and read in place, and it is never changed."""

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pagoda.cli.doctor.models import check_models, check_ollama
from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.digest import DigestCache
from pagoda.models.errors import ModelFormatError, ModelNotFoundError, ModelOwnerError
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.ollama.store import OllamaStore, read_stored_manifest
from pagoda.models.ollama_objects import listed, shown
from pagoda.models.pull import ModelPuller, version_of
from pagoda.models.sampling_defaults import SamplingPolicy, Source
from pagoda.models.sources.progress import Progress
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings
from tests.fakes.ollama_store import FakeOllamaStore, tree_state
from tests.fakes.registry_server import FakeRegistry, digest_of, fake_registry
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_store import HF_CONFIG, write_checkpoint
from tests.unit.pagoda.models.test_store_changes import replace_with_a_pipe
from worker.loading.local_models import LocalModels
from worker.settings import WorkerSettings

NAMES = [
    "hf.co/Bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
    "llama3.2:latest",
    "mannix/x:latest",
    "qwen3:0.6b",
    "reg.example:5000/team/model:v1",
]


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeOllamaStore:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    return FakeOllamaStore(tmp_path / "ollama")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(ollama: FakeOllamaStore, home: Path) -> ModelStore:
    return ModelStore(home)


@pytest.fixture
def editor(store: ModelStore, home: Path) -> ModelEditor:
    return ModelEditor(store, BlobStore(home))


def ignore(status: str) -> None:
    pass


def names(store: ModelStore) -> list[str]:
    return [model.name for model in store.list()]


# Names


def test_names_are_those_that_ollama_prints(ollama: FakeOllamaStore, store: ModelStore, tiny: Path) -> None:
    for name in NAMES:
        ollama.add(name, tiny)
    ollama.add_interrupted_pull()
    assert names(store) == NAMES
    for name in NAMES:
        assert store.get(name).name == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("llama3.2", NAMES[1]),
        ("Llama3.2:Latest", NAMES[1]),
        ("library/llama3.2", NAMES[1]),
        ("registry.ollama.ai/library/llama3.2", NAMES[1]),
        ("https://ollama.com/library/llama3.2", NAMES[1]),
        ("mannix/x", NAMES[2]),
        ("bartowski/llama-3.2-1b-instruct-gguf:q4_k_m", NAMES[0]),
        ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", NAMES[0]),
        ("hf:Bartowski/Llama-3.2-1B-Instruct-GGUF:q4_k_m", NAMES[0]),
        ("https://huggingface.co/Bartowski/Llama-3.2-1B-Instruct-GGUF:q4_k_m", NAMES[0]),
        ("REG.example:5000/Team/Model:V1", NAMES[4]),
    ],
)
def test_a_model_is_found_by_every_spelling(
    ollama: FakeOllamaStore, store: ModelStore, editor: ModelEditor, tiny: Path, written: str, name: str
) -> None:
    for each in NAMES:
        ollama.add(each, tiny)
    assert store.get(written).name == name
    assert editor.has(written) and editor.get(written).name == name


@pytest.mark.parametrize(
    "name", ["llama3.2:1b", "mannix/y", "hf.co/mannix/x", "bartowski/llama-3.2-1b-instruct-gguf", "a b"]
)
def test_what_is_not_there(ollama: FakeOllamaStore, store: ModelStore, tiny: Path, name: str) -> None:
    for each in NAMES:
        ollama.add(each, tiny)
    with pytest.raises(ModelNotFoundError):
        store.get(name)


def test_the_same_name_at_the_registry_and_the_hub(ollama: FakeOllamaStore, store: ModelStore, tmp_path: Path) -> None:
    for seed, name in enumerate(("a/b", "hf.co/a/b")):
        ollama.add(name, write_tiny_gguf(tmp_path / f"{seed}.gguf", seed=seed))
    assert names(store) == ["a/b:latest", "hf.co/a/b:latest"]
    for model in store.list():
        assert store.get(model.name) == model


def test_an_alias_of_the_catalogue_does_not_hide_ollamas_name(
    ollama: FakeOllamaStore, home: Path, editor: ModelEditor, tiny: Path
) -> None:
    entry = CatalogueEntry(name="m:1b", aliases=("m:latest",), source="hf.co/a/m", size_bytes=1)
    store = ModelStore(home, catalogue=[entry])
    ollama.add("m", tiny)
    assert names(store) == ["m:latest"] and store.get("m").in_ollama_store
    editor.create_from_files("m:1b", {tiny.name: tiny}, ModelSettings(), ignore)
    assert names(store) == ["m:1b"] and not store.get("m").in_ollama_store


def test_our_own_model_wins_and_hides_ollamas(
    ollama: FakeOllamaStore, store: ModelStore, editor: ModelEditor, tiny: Path, tmp_path: Path
) -> None:
    ollama.add("hf.co/a/B:Q8_0", tiny)
    before = tree_state(ollama.directory)
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    editor.create_from_files("a/b:q8_0", {other.name: other}, ModelSettings(), ignore)
    assert names(store) == ["a/b:q8_0"]
    assert not store.get("hf.co/a/B:Q8_0").in_ollama_store
    store.get("a/b:q8_0").path.unlink()  # Even a damaged one does: its name must not change its meaning.
    assert names(store) == []
    with pytest.raises(ModelFormatError, match="missing"):
        store.get("a/b:q8_0")
    editor.delete("a/b:q8_0")
    assert names(store) == ["hf.co/a/B:Q8_0"]
    assert tree_state(ollama.directory) == before


def test_several_stores(tmp_path: Path, home: Path, tiny: Path) -> None:
    stores = [FakeOllamaStore(tmp_path / str(number)) for number in range(2)]
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    stores[0].add("both", tiny)
    stores[1].add("Both", other)
    stores[1].add("second", other)
    places = (tmp_path / "0", tmp_path / "not there", tmp_path / "1")
    store = ModelStore(home, sources=SourceSettings(ollama_stores=places))
    assert names(store) == ["both:latest", "second:latest"]
    assert store.get("BOTH").digest == store.list()[0].digest == DigestCache(home / "d").file_digest(tiny)


# Contents


def test_what_a_model_has(ollama: FakeOllamaStore, store: ModelStore, tiny: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    manifest = ollama.add(
        "mine",
        tiny,
        texts={"system": "Be brief.", "template": "{{ .Prompt }}"},
        params={"stop": ["</s>"], "temperature": 0.5, "num_gpu": 1},
        messages=messages,
        licenses=["MIT", "more"],
        created_from="/home/you/tiny.gguf",
    )
    model = store.get("mine")
    assert (model.in_ollama_store, model.manifest, model.name) == (True, manifest, "mine:latest")
    assert (model.path, model.digest) == (ollama.blob(model.digest), DigestCache(tiny.parent / "d").file_digest(tiny))
    settings = read_settings(model)
    assert (settings.system, settings.template, settings.messages) == ("Be brief.", "{{ .Prompt }}", messages)
    assert settings.parameters == {"stop": ["</s>"], "temperature": 0.5}
    assert list(settings.license) == ["MIT", "more"]
    assert version_of(model) == read_stored_manifest(manifest).digest
    (tag,) = map(listed, store.list())
    assert (tag["name"], tag["size"]) == ("mine:latest", tiny.stat().st_size)
    assert shown(model, SamplingPolicy(), verbose=True)["system"] == "Be brief."


def test_no_weights_are_read(
    ollama: FakeOllamaStore, store: ModelStore, home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.add("a", tiny)
    ollama.add("b", tiny, texts={"system": "S"})
    monkeypatch.delattr("pagoda.models.digest.hashlib.file_digest")
    blob = store.get("a").path
    blob.rename(tiny.parent / "moved")
    blob.symlink_to(tiny.parent / "moved")  # people move large blobs to another disk
    assert names(store) == ["a:latest", "b:latest"]
    assert store.get(str(store.get("a").path)).digest == store.get("a").digest
    (link := ollama.directory.parent / "link.gguf").symlink_to(store.get("a").path)
    assert ModelStore(store.layout.models.parent).get(str(link)).digest == store.get("a").digest
    assert not home.exists()


def test_blobs_of_old_versions(tmp_path: Path, home: Path, tiny: Path) -> None:
    ollama = FakeOllamaStore(tmp_path / "old", separator=":")
    ollama.add("a", tiny, texts={"prompt": "{{ .Prompt }}"})
    store = ModelStore(home, sources=SourceSettings(ollama_stores=(ollama.directory,)))
    (model,) = store.list()
    assert model.path.name == f"sha256:{model.digest}" and read_settings(model).template == "{{ .Prompt }}"


def test_the_same_files_and_settings_have_the_same_digest_under_every_name(
    ollama: FakeOllamaStore, store: ModelStore, editor: ModelEditor, tiny: Path
) -> None:
    ollama.add("a", tiny, texts={"system": "S"})
    ollama.add("b", tiny, texts={"system": "S"})
    editor.copy("a", "c")
    editor.create_from_model("d", store.get("b"), ModelSettings(), ignore)
    editor.create_from_model("e", store.get("b"), ModelSettings(system="T"), ignore)
    digests = [listed(model)["digest"] for model in store.list()]
    assert len(set(digests[:4])) == 1 and digests[4] != digests[0]


# Models that cannot be served


def damaged_manifest(content: bytes) -> Callable[[FakeOllamaStore, Path], object]:
    return lambda ollama, tiny: ollama.write_manifest("bad", content)


def damaged_weights(damage: Callable[[Path], object]) -> Callable[[FakeOllamaStore, Path], object]:
    """Return a function that adds a model and damages its weights, which no other model has."""
    return lambda ollama, tiny: damage(weights(ollama, ollama.add("bad", write_other(tiny.parent, "qwen2"))))


def write_other(directory: Path, architecture: str) -> Path:
    return write_tiny_gguf(directory / f"{architecture}.gguf", architecture=architecture)


BAD: dict[str, Callable[[FakeOllamaStore, Path], object]] = {
    "empty": damaged_manifest(b""),
    "truncated": damaged_manifest(b'{"schemaVersion":2,"layers":['),
    "deep": damaged_manifest(b"[" * 100_000),
    "list": damaged_manifest(b"[]"),
    "binary": damaged_manifest(b"\xff\xfe\x00"),
    "digest": damaged_manifest(b'{"layers":[{"mediaType":"x","digest":"sha256:../../x","size":1}]}'),
    "no layers": damaged_manifest(b'{"layers":[],"config":{"digest":"","size":0,"mediaType":""}}'),
    "pipe": lambda ollama, tiny: replace_with_a_pipe(ollama.add("bad", tiny)),
    "circle": lambda ollama, tiny: replace_with_a_circle(ollama.add("bad", tiny)),
    "blob pipe": damaged_weights(lambda blob: replace_with_a_pipe(blob)),
    "blob missing": damaged_weights(lambda blob: blob.unlink()),
    "blob short": damaged_weights(lambda blob: shorten(blob)),
    "blob directory": damaged_weights(lambda blob: replace_with_a_directory(blob)),
    "text pipe": lambda ollama, tiny: replace_with_a_pipe(
        text(ollama, ollama.add("bad", tiny, texts={"system": "odd"}))
    ),
    "text missing": lambda ollama, tiny: text(ollama, ollama.add("bad", tiny, texts={"system": "odd"})).unlink(),
    "params": lambda ollama, tiny: ollama.add("bad", tiny, texts={"params": "{"}),
    "architecture": lambda ollama, tiny: ollama.add("bad", write_other(tiny.parent, "mllama")),
    "no gguf": lambda ollama, tiny: ollama.add("bad", not_gguf(tiny.parent)),
    "adapter": lambda ollama, tiny: ollama.add("bad", tiny, texts={"adapter": b"GGUF"}),
    "mlx": lambda ollama, tiny: ollama.add("bad", None, texts={"tensor": b"x", "json": "{}"}),
    "remote": lambda ollama, tiny: ollama.add(
        "bad", None, config={"remote_host": "https://ollama.com:443", "remote_model": "x"}
    ),
}


def replace_with_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def replace_with_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def shorten(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()  # The file is a link to one outside the store.
    path.write_bytes(content[:-1])


def not_gguf(directory: Path) -> Path:
    (directory / "text.gguf").write_text("no model at all")
    return directory / "text.gguf"


def weights(ollama: FakeOllamaStore, manifest: Path) -> Path:
    return ollama.blob(json.loads(manifest.read_text())["layers"][0]["digest"])


def text(ollama: FakeOllamaStore, manifest: Path) -> Path:
    return ollama.blob(json.loads(manifest.read_text())["layers"][1]["digest"])


@pytest.mark.parametrize("kind", BAD)
def test_a_model_that_cannot_be_served_is_left_out_and_says_why(
    ollama: FakeOllamaStore, store: ModelStore, home: Path, tiny: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    ollama.add("good", write_tiny_gguf(tiny.parent / "good.gguf", seed=1))
    BAD[kind](ollama, tiny)
    before = tree_state(ollama.directory)
    caplog.set_level("INFO")
    for _ in range(3):
        assert names(store) == ["good:latest"]
        assert store.left_out == ["bad:latest"]
    found = [(record.getMessage(), record.levelname) for record in caplog.records]
    assert found == [("model cannot be read", "INFO")]
    with pytest.raises(ModelFormatError, match="bad:latest") as caught:
        store.get("bad")
    assert str(ollama.blobs) not in str(caught.value)
    levels = {finding.subject: finding.level for finding in check_models(home, deep=True)}
    assert levels == {"bad:latest": "warning", "models": "ok"}
    assert tree_state(ollama.directory) == before


def test_strange_entries_hide_no_model(
    ollama: FakeOllamaStore, store: ModelStore, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ollama.add("good", tiny)
    model = ollama.manifest("good").parent
    for directory in (model, *model.parents[:4], ollama.blobs):
        (directory / ".DS_Store").write_bytes(b"x")
        (directory / "dangling").symlink_to("/nonexistent/file")
    for directory in model.parents[:3]:
        (directory / "notes.txt").write_text("x")
        os.mkfifo(directory / "pipe")
        (directory / "empty").mkdir()
    (model / "below").mkdir()
    assert names(store) == ["good:latest"]
    assert caplog.records == []
    (model.parent / "circle").symlink_to(model.parent / "circle")
    ollama.write_manifest("a b:c", b"{}")
    caplog.set_level("INFO")
    for _ in range(2):
        assert names(store) == ["good:latest"]
    assert sorted(record.getMessage() for record in caplog.records) == [
        "model cannot be read",
        "store directory not readable",
    ]


def test_a_store_that_cannot_be_read(
    store: ModelStore,
    ollama: FakeOllamaStore,
    tiny: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The directory of Ollama's service belongs to another user. Tests may run as root, which every directory admits."""
    ollama.add("a", tiny)
    scandir = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).is_relative_to(ollama.directory):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for _ in range(2):
        assert names(store) == []
        with pytest.raises(ModelNotFoundError):
            store.get("a")
    assert [record.getMessage() for record in caplog.records] == ["store directory not readable"]
    (finding,) = check_ollama([OllamaStore(ollama.directory), OllamaStore(tiny.parent / "none")])
    assert finding.level == "warning" and "Permission denied" in finding.text


# Changes by Ollama


def test_what_ollama_changes_is_seen(
    ollama: FakeOllamaStore, store: ModelStore, home: Path, tiny: Path, tmp_path: Path
) -> None:
    own = write_tiny_gguf(tmp_path / "own.gguf")
    worker = LocalModels(WorkerSettings(home=home, model=str(own), scheduler="unix:/none"))
    worker.refresh()

    def loadable() -> dict[str, str]:
        return {model.name: model.digest for model in worker.loadable_models().models if model.name != "own"}

    assert not worker.refresh() and loadable() == {}
    ollama.add("a", tiny)
    assert worker.refresh() and loadable() == {"a:latest": store.get("a").digest}
    first, state = store.get("a"), store.state_of(store.get("a"))
    ollama.add("a", write_tiny_gguf(tmp_path / "new.gguf", seed=1))
    assert store.state_of(first) != state
    model, _ = store.read_current(first, read_settings)
    assert model.digest != first.digest
    assert worker.refresh() and loadable() == {"a:latest": model.digest}
    worker.refresh()
    assert not worker.refresh()
    model.path.unlink()
    assert worker.refresh() and loadable() == {}
    ollama.manifest("a").unlink()
    with pytest.raises(ModelNotFoundError):
        store.read_current(model, read_settings)
    ollama.add("b", tiny)
    assert worker.refresh() and loadable() == {"b:latest": first.digest}


def test_a_manifest_that_is_just_written_is_read_again(
    ollama: FakeOllamaStore,
    store: ModelStore,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    content = ollama.add("a", tiny).read_bytes()
    manifest = ollama.write_manifest("a", b"")
    monkeypatch.setattr("pagoda.models.ollama.store.time.sleep", lambda seconds: manifest.write_bytes(content))
    assert names(store) == ["a:latest"] and caplog.records == []
    manifest.write_bytes(b"")
    os.utime(manifest, (0, 0))
    assert names(store) == [] and len(caplog.records) == 1


def test_listings_beside_ollama_never_fail(ollama: FakeOllamaStore, home: Path, tiny: Path, tmp_path: Path) -> None:
    """Ollama writes manifests in place: a reader may find an empty one."""
    files = [tiny, write_tiny_gguf(tmp_path / "other.gguf", seed=1)]
    for file in files:
        ollama.link_blob(file)
    ollama.add("steady", tiny)
    may_stop = threading.Event()

    def change() -> None:
        number = 0
        while not may_stop.is_set():
            number += 1
            manifest = ollama.add(f"m{number % 3}", files[number % 2], texts={"system": str(number % 2)})
            if number % 5 == 0:
                manifest.unlink()

    own = write_tiny_gguf(tmp_path / "own.gguf", seed=2)
    worker = LocalModels(WorkerSettings(home=home, model=str(own), scheduler="unix:/none"))
    store = ModelStore(home)
    with ThreadPoolExecutor() as pool:
        changing = pool.submit(change)
        try:
            for _ in range(100):
                assert "steady:latest" in [model.name for model in store.list()]
                worker.refresh()
                with contextlib.suppress(ModelNotFoundError, ModelFormatError):  # incomplete for long on a busy machine
                    assert store.read_current(store.get("m1"), read_settings)[1].system in "01"
        finally:
            may_stop.set()
        changing.result()
    for number in range(3):
        ollama.add(f"m{number}", tiny)
    assert names(store) == ["m0:latest", "m1:latest", "m2:latest", "steady:latest"]


def test_the_settings_of_a_model_that_is_removed_meanwhile(
    ollama: FakeOllamaStore, store: ModelStore, tiny: Path
) -> None:
    manifest = ollama.add("a", tiny, texts={"system": "S"})
    model = store.get("a")
    text(ollama, manifest).unlink()
    with pytest.raises(ModelFormatError, match="is missing from Ollama's store"):
        store.read_current(model, read_settings)
    manifest.unlink()
    with pytest.raises(ModelNotFoundError):
        store.read_current(model, read_settings)


# Our changes


def test_nothing_in_the_store_is_ever_changed(
    ollama: FakeOllamaStore, home: Path, store: ModelStore, editor: ModelEditor, tiny: Path
) -> None:
    ollama.add("a", tiny, texts={"system": "S"}, params={"top_k": 3})
    ollama.add("b", write_tiny_gguf(tiny.parent / "b.gguf", seed=1))
    ollama.add_interrupted_pull()
    BAD["truncated"](ollama, tiny)
    blob = store.get("a").path
    link = tiny.parent / "link.gguf"
    link.symlink_to(blob)
    for path in (*ollama.directory.rglob("*"), ollama.directory):
        path.chmod(path.stat().st_mode & ~0o222)  # No effect for root, whose changes the comparison shows.
    before = tree_state(ollama.directory)

    editor.copy("a", "copy")
    editor.copy("a", "a2")
    editor.create_from_model("derived", store.get("a"), ModelSettings(system="T"), ignore)
    editor.create_from_model("from-path", store.get(str(blob)), ModelSettings(), ignore)
    editor.copy_model(store.get(str(blob)), "from-path2")
    editor.create_from_files("file", {blob.name: blob}, ModelSettings(), ignore)
    editor.create_from_files("link", {link.name: link}, ModelSettings(), ignore)
    editor.create_from_model("b", store.get("b"), ModelSettings(system="mine"), ignore)  # the same name as Ollama's
    for name in ("copy", "a2", "derived", "from-path", "from-path2", "file", "link", "b"):
        model = store.get(name)
        assert (model.path.parent, model.in_ollama_store) == (ollama.blobs, False)
        assert json.loads(model.manifest.read_text())["path"] == str(model.path)  # type: ignore[union-attr]
    assert read_settings(store.get("copy")).to_json() == read_settings(store.get("a")).to_json()
    assert read_settings(store.get("derived")).parameters == {"top_k": 3}
    for name in ("a", "A:latest", "bad"):
        with pytest.raises(ModelOwnerError, match=r"belongs to Ollama; remove it there: ollama rm"):
            editor.delete(name)
    for model in store.list():
        listed(model), shown(model, SamplingPolicy(), verbose=True)
    for name in ("a2", "copy", "derived", "file", "b"):
        editor.delete(name)
    assert store.get("b").in_ollama_store
    store.tidy()
    check_models(home, deep=True)
    assert tree_state(ollama.directory) == before
    assert not any(each.is_file() and each.suffix == ".gguf" for each in home.rglob("*"))


def test_files_of_which_only_some_are_ollamas_are_copied(
    ollama: FakeOllamaStore, store: ModelStore, editor: ModelEditor, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint_with_ollamas_file(tmp_path / "checkpoint", ollama)
    before = tree_state(ollama.directory)
    editor.create_from_files("c", {file.name: file for file in checkpoint.iterdir()}, ModelSettings(), ignore)
    assert store.is_own(store.get("c").path)
    assert tree_state(ollama.directory) == before


def write_checkpoint_with_ollamas_file(directory: Path, ollama: FakeOllamaStore) -> Path:
    """Write a checkpoint whose weights are a link to a blob of Ollama."""
    checkpoint = write_checkpoint(directory, HF_CONFIG)
    file = checkpoint / "model.safetensors"
    blob = ollama.blob(ollama.add_blob(file.read_bytes()))
    file.unlink()
    file.symlink_to(blob)
    return checkpoint


def test_a_model_whose_file_ollama_has_removed_says_so(
    ollama: FakeOllamaStore, store: ModelStore, home: Path, editor: ModelEditor, tiny: Path
) -> None:
    manifest = ollama.add("a", tiny)
    editor.copy("a", "copy")
    worker = LocalModels(WorkerSettings(home=home, model=str(tiny), scheduler="unix:/none"))
    worker.refresh()
    manifest.unlink()
    weights_of_copy = store.get("copy").path
    weights_of_copy.unlink()
    with pytest.raises(ModelFormatError, match=r"'copy:latest' is no longer in Ollama's store; .* create it again$"):
        store.get("copy")
    assert worker.refresh() and [model.name for model in worker.loadable_models().models] == ["tiny"]
    editor.delete("copy")
    assert names(store) == []


def test_doctor_compares_a_blob_with_its_name(
    ollama: FakeOllamaStore, store: ModelStore, home: Path, tiny: Path
) -> None:
    ollama.add("a", tiny)
    blob = store.get("a").path
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    shutil.copyfile(blob, copy := tiny.parent / "copy")
    copy.write_bytes(content)
    os.replace(copy, blob)
    assert [finding.level for finding in check_models(home, deep=False)] == ["ok"]
    (finding,) = check_models(home, deep=True)
    assert (
        finding.level == "problem"
        and "SHA-256 mismatch" in finding.text
        and "ollama pull a:latest" in finding.next_step
    )
    (finding,) = check_ollama(store.ollama_stores)
    assert finding.text == f"1 model in {ollama.directory}, served from there if supported"


def test_the_catalogues_sampling_is_found_by_ollamas_name(
    ollama: FakeOllamaStore, store: ModelStore, editor: ModelEditor, tiny: Path
) -> None:
    """The catalogue's name of llama3.2 is llama3.2:3b. Parameters of Ollama's layers win."""
    ollama.add("llama3.2", tiny, params={"temperature": 0.1})
    ollama.add("team/llama3.2", tiny)
    editor.copy("llama3.2:latest", "copy")
    for name in ("llama3.2", "copy"):
        defaults = SamplingPolicy().defaults_of(store.get(name)).parameters
        assert {key: (each.value, each.source) for key, each in defaults.items()} == {
            "temperature": (0.1, Source.MODELFILE),
            "top_p": (0.9, Source.CATALOGUE),
        }
    assert SamplingPolicy().defaults_of(store.get("team/llama3.2")).parameters == {}


# Pulls


def put_into_ollama(ollama: FakeOllamaStore, registry: FakeRegistry, published: str, name: str) -> None:
    """Add a model as if Ollama had pulled it from the registry: the same bytes of the manifest, and all blobs."""
    manifest = registry.manifests[published]
    described = json.loads(manifest)
    for layer in (described["config"], *described["layers"]):
        ollama.add_blob(registry.blobs[layer["digest"]])
    ollama.write_manifest(name, manifest)


@pytest.mark.parametrize(("name", "published"), [("mine:1b", "library/mine:1b"), ("llama3.2", "library/llama3.2:3b")])
def test_a_pull_serves_ollamas_model_unless_there_is_a_newer_one(
    ollama: FakeOllamaStore, home: Path, tiny: Path, tmp_path: Path, name: str, published: str
) -> None:
    """The catalogue's name of llama3.2 is llama3.2:3b. The registry has the same manifest under both."""
    reported: list[Progress] = []
    with fake_registry() as registry:
        sources = SourceSettings(registry_url=registry.url, ollama_stores=(ollama.directory,))
        store = ModelStore(home, sources=sources)
        puller = ModelPuller(store, ModelEditor(store, BlobStore(home)))
        registry.publish(published, tiny.read_bytes(), layers=[("system", b"S")])
        put_into_ollama(ollama, registry, published, name)
        before = tree_state(ollama.directory)
        assert puller.ensure(name, reported.append).in_ollama_store and registry.asked == []
        assert puller.pull(name, reported.append).in_ollama_store
        assert registry.requests_of(digest_of(tiny.read_bytes())) == []
        registry.publish(published, newer := write_tiny_gguf(tmp_path / "n.gguf", seed=1).read_bytes())
        model = puller.pull(name, reported.append)
    assert not model.in_ollama_store and model.path.read_bytes() == newer
    assert len(store.list()) == 1
    assert tree_state(ollama.directory) == before
    ModelEditor(store, BlobStore(home)).delete(model.name)
    assert store.get(name).in_ollama_store


def test_the_stores_of_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/you")
    default = (Path("/home/you/.ollama/models"), Path("/usr/share/ollama/.ollama/models"))
    assert SourceSettings.from_environment({}).ollama_stores == default
    assert SourceSettings.from_environment({"OLLAMA_MODELS": " "}).ollama_stores == default
    assert SourceSettings.from_environment({"OLLAMA_MODELS": "~/m"}).ollama_stores == (Path("/home/you/m"),)
