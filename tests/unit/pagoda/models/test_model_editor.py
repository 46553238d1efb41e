"""Copies, deletions and derived models: separate directories that share only the bytes of their files."""

import hashlib
import json
from pathlib import Path

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelError, ModelFormatError, ModelNotFoundError
from pagoda.models.model import ModelFormat
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.packed_weights import packed_directory, packed_files, packed_path
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_store import HF_CONFIG, write_checkpoint


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> ModelStore:
    return ModelStore(home)


@pytest.fixture
def blobs(home: Path) -> BlobStore:
    return BlobStore(home)


@pytest.fixture
def editor(store: ModelStore, blobs: BlobStore) -> ModelEditor:
    return ModelEditor(store, blobs)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def ignore(status: str) -> None:
    pass


def make(editor: ModelEditor, name: str, file: Path, settings: ModelSettings | None = None) -> None:
    editor.create_from_files(name, {file.name: file}, settings or ModelSettings(), ignore)


def upload(blobs: BlobStore, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with blobs.upload(digest) as upload:
        upload.write(content)
        upload.commit()
    return digest


def test_a_model_made_under_an_alias_of_the_catalogue_is_another_one(
    editor: ModelEditor, store: ModelStore, tiny: Path
) -> None:
    """Such a model may be older than the catalogue's alias."""
    make(editor, "qwen3:8b", tiny, ModelSettings(system="pulled"))
    assert read_settings(store.get("qwen3")).system == "pulled", "qwen3 means qwen3:8b"
    editor.copy("qwen3", "qwen3:8b-q4_K_M")
    make(editor, "Qwen3", tiny, ModelSettings(system="made"))
    assert [model.name for model in store.list()] == ["qwen3:8b", "qwen3:8b-q4_k_m", "qwen3:latest"]
    assert read_settings(store.get("qwen3")).system == "made"
    assert store.canonical_name("qwen3") == "qwen3:latest"
    editor.delete("qwen3")
    assert [model.name for model in store.list()] == ["qwen3:8b", "qwen3:8b-q4_k_m"]
    assert read_settings(store.get("qwen3")).system == "pulled"


def test_a_model_from_a_gguf_file(editor: ModelEditor, store: ModelStore, tiny: Path) -> None:
    statuses: list[str] = []
    editor.create_from_files("Mine", {"any.gguf": tiny}, ModelSettings(system="Be brief."), statuses.append)
    model = store.get("mine")
    assert (model.name, model.format) == ("mine:latest", ModelFormat.GGUF)
    assert model.digest == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert read_settings(model).system == "Be brief."
    assert statuses == ["parsing GGUF", "writing manifest"]
    assert model.path.stat().st_ino == tiny.stat().st_ino  # shared, not copied


@pytest.mark.parametrize("num_files", [1, 2])
def test_a_model_from_a_checkpoint(editor: ModelEditor, store: ModelStore, tmp_path: Path, num_files: int) -> None:
    tiny_checkpoint = write_checkpoint(tmp_path / "checkpoint", HF_CONFIG, num_files=num_files)
    editor.create_from_files("mine", {path.name: path for path in tiny_checkpoint.iterdir()}, ModelSettings(), ignore)
    editor.copy("mine", "other:1")
    editor.delete("mine")
    assert store.get("other:1").format is ModelFormat.SAFETENSORS


def test_a_copy_outlives_its_original(editor: ModelEditor, store: ModelStore, tiny: Path) -> None:
    make(editor, "a", tiny, ModelSettings(system="S", parameters={"top_k": 3}))
    editor.copy("A", "ns/b:7")
    editor.delete("a:latest")
    assert [model.name for model in store.list()] == ["ns/b:7"]
    settings = read_settings(store.get("ns/b:7"))
    assert (settings.system, settings.parameters) == ("S", {"top_k": 3})
    assert not (store.directory / "a").exists()


def test_a_derived_model_inherits_what_it_leaves_open(editor: ModelEditor, store: ModelStore, tiny: Path) -> None:
    make(editor, "a", tiny, ModelSettings(system="S", license=["MIT"], parameters={"top_k": 3, "seed": 1}))
    changes = ModelSettings(system="T", parameters={"seed": 2})
    editor.create_from_model("b", store.get("a"), changes, ignore)
    settings = read_settings(store.get("b"))
    assert (settings.system, settings.license, settings.parent) == ("T", ["MIT"], "a:latest")
    assert settings.parameters == {"top_k": 3, "seed": 2}


def test_creating_again_replaces_all(editor: ModelEditor, store: ModelStore, tiny: Path, tmp_path: Path) -> None:
    make(editor, "a", tiny, ModelSettings(system="S"))
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    make(editor, "a", other)
    assert store.get("a").digest == hashlib.sha256(other.read_bytes()).hexdigest()
    assert read_settings(store.get("a")) == ModelSettings()


@pytest.mark.parametrize(
    ("content", "message"), [(b"GGUF", "model.gguf"), (b"no model at all", "model.gguf"), (b"", "model.gguf")]
)
def test_a_damaged_file_leaves_nothing_behind(
    editor: ModelEditor, store: ModelStore, tmp_path: Path, content: bytes, message: str
) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with pytest.raises(ModelFormatError, match=message) as caught:
        make(editor, "a", damaged)
    assert str(tmp_path) not in str(caught.value)
    assert (
        not editor.has("a")
        and [each for each in store.directory.iterdir() if each.name not in (".lock", ".scratch")] == []
    )
    assert list(store.layout.scratch.iterdir()) == []


@pytest.mark.parametrize("name", ["../x.gguf", "a/b.gguf", "/etc/passwd", "", ".."])
def test_file_names_cannot_leave_the_model(editor: ModelEditor, tiny: Path, name: str) -> None:
    with pytest.raises(ModelFormatError, match="relative"):
        editor.create_from_files("a", {name: tiny}, ModelSettings(), ignore)


@pytest.mark.parametrize("name", ["", "../a", "/etc", "./tiny.gguf", "a b", "none"])
def test_only_names_of_the_store(editor: ModelEditor, tiny: Path, name: str) -> None:
    assert not editor.has(name)
    for act in (editor.delete, editor.get, lambda name: editor.copy(name, "b")):
        with pytest.raises(ModelNotFoundError):
            act(name)


def test_the_packed_weights_of_a_model_are_removed_with_its_last_copy(
    editor: ModelEditor, store: ModelStore, home: Path, tiny: Path
) -> None:
    make(editor, "one", tiny)
    editor.copy("one", "two")
    digest = store.get("one").digest
    ours, other = packed_path(home, digest, "key"), packed_path(home, "0" * 64, "key")
    packed_directory(home).mkdir()
    for path in (ours, other):
        path.write_bytes(b"packed")
    editor.delete("one")
    assert ours.exists()
    editor.delete("two")
    assert packed_files(home) == [other]


def test_a_damaged_model_can_be_deleted(editor: ModelEditor, store: ModelStore, tiny: Path) -> None:
    make(editor, "a", tiny)
    store.get("a").path.unlink()
    editor.delete("a")
    assert not editor.has("a")


def test_settings_beside_a_file_that_is_not_in_the_store_do_not_count(
    store: ModelStore, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"settings": {"system": "S"}, "file": "another.gguf"}))
    assert read_settings(store.get(str(tiny))) == ModelSettings()


def test_settings_of_an_unknown_kind(editor: ModelEditor, store: ModelStore, tiny: Path) -> None:
    make(editor, "a", tiny)
    manifest = store.get("a").manifest
    assert manifest is not None
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "settings": {"magic": 1}}))
    with pytest.raises(ModelFormatError, match="unknown settings"):
        read_settings(store.get("a"))


def test_a_blob_is_kept_only_if_it_is_what_it_says(blobs: BlobStore, home: Path) -> None:
    digest = upload(blobs, b"content")
    assert blobs.get(digest).read_bytes() == b"content"
    with pytest.raises(ModelFormatError, match=r"digest mismatch, expected .*0000.*, got .*ed70"):
        with blobs.upload("sha256:" + "0" * 64) as upload_:
            upload_.write(b"content")
            upload_.commit()
    with pytest.raises(ModelNotFoundError, match="not found"):
        blobs.get("sha256:" + "0" * 64)
    assert [path.name for path in (home / "models" / "blobs").iterdir()] == [digest.replace(":", "-")]


@pytest.mark.parametrize("digest", ["", "sha256:12", "md5:" + "0" * 64, "sha256:../" + "0" * 61, "x" * 5000])
def test_what_is_no_digest(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(ModelError, match="invalid digest format"):
        blobs.get(digest)


def test_a_blob_goes_with_the_last_model_that_uses_it(editor: ModelEditor, blobs: BlobStore, tiny: Path) -> None:
    digest = upload(blobs, tiny.read_bytes())
    make(editor, "a", blobs.get(digest))
    make(editor, "b", blobs.get(digest))
    editor.delete("a")
    assert blobs.get(digest).exists()
    editor.delete("b")
    with pytest.raises(ModelNotFoundError):
        blobs.get(digest)
