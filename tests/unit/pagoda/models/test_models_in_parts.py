"""Models in several GGUF files: by the path of any part, in the store, copied, created, and downloaded."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelFormatError
from pagoda.models.formats.gguf_parts import part_files
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.sources.remote import RemoteFile, RemoteModel
from pagoda.models.sources.source import Fetched
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import write_tiny_gguf

NAMES = [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "home")


@pytest.fixture
def editor(store: ModelStore, tmp_path: Path) -> ModelEditor:
    return ModelEditor(store, BlobStore(tmp_path / "home"))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "weights")


def write_parts(directory: Path, seed: int = 0) -> Path:
    directory.mkdir()
    return write_tiny_gguf(directory / "tiny.gguf", seed=seed, tensors_per_part=8)


def by_name(first: Path) -> dict[str, Path]:
    return {path.name: path for path in part_files(first)}


def create(editor: ModelEditor, files: Mapping[str, Path], name: str = "mine") -> list[str]:
    statuses: list[str] = []
    editor.create_from_files(name, files, ModelSettings(), statuses.append)
    return statuses


def is_shared(model: Model, first: Path) -> bool:
    return [path.stat().st_ino for path in part_files(model.path)] == [path.stat().st_ino for path in part_files(first)]


@pytest.mark.parametrize("name", NAMES)
def test_the_path_of_any_part_is_the_model(store: ModelStore, first: Path, name: str) -> None:
    model = store.get(str(first.with_name(name)))
    assert (model.name, model.path) == ("tiny", first)
    assert model.size_bytes == sum(path.stat().st_size for path in part_files(first))
    lines = "".join(f"{each.name}\n{hashlib.sha256(each.read_bytes()).hexdigest()}\n" for each in part_files(first))
    assert model.digest == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_change_of_any_part_is_another_model(store: ModelStore, first: Path, number: int) -> None:
    before = store.get(str(first))
    changed = first.with_name(NAMES[number - 1])
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.unlink()
    changed.write_bytes(content)
    after = store.get(str(first))
    assert after.digest != before.digest and after.size_bytes == before.size_bytes


def test_a_path_without_its_first_part_is_a_sentence(store: ModelStore, first: Path) -> None:
    first.unlink()
    with pytest.raises(ModelFormatError, match=r"tiny-00001-of-00003\.gguf is missing: it is part 1 of 3 of the model"):
        store.get(str(first.with_name(NAMES[1])))


def test_parts_are_beside_the_link(store: ModelStore, first: Path, tmp_path: Path) -> None:
    """The hub's cache has links with the files' names, and elsewhere files named by their hashes."""
    digest = store.get(str(first)).digest
    snapshot = cached(first, tmp_path / "hub").parent
    model = store.get(str(snapshot / first.name))
    assert (model.path, model.digest) == (snapshot / first.name, digest)
    (tmp_path / "latest").symlink_to(snapshot)
    assert store.get(str(tmp_path / "latest" / NAMES[2])).path == snapshot / first.name


def test_a_model_in_the_store_keeps_the_parts_names(editor: ModelEditor, store: ModelStore, first: Path) -> None:
    digest = store.get(str(first)).digest
    assert create(editor, by_name(first)) == ["parsing GGUF", "writing manifest"]
    model = store.get("mine")
    assert (model.name, model.digest, model.path.name) == ("mine:latest", digest, first.name)
    assert is_shared(model, first)
    assert sorted(path.name for path in model.path.parent.iterdir()) == ["manifest.json", *NAMES]


def test_copies_and_derived_models_share_all_parts(editor: ModelEditor, store: ModelStore, first: Path) -> None:
    create(editor, by_name(first))
    editor.copy("mine", "other:1")
    editor.create_from_model("derived", store.get("mine"), ModelSettings(system="S"), lambda status: None)
    editor.create_from_model("from-path", store.get(str(first)), ModelSettings(), lambda status: None)
    editor.delete("mine")
    models = store.list()
    assert [model.name for model in models] == ["derived:latest", "from-path:latest", "other:1"]
    assert all(is_shared(model, first) for model in models)
    assert len({model.digest for model in models}) == 1


def test_uploaded_parts_are_deleted_with_their_last_model(
    editor: ModelEditor, store: ModelStore, first: Path, tmp_path: Path
) -> None:
    blobs, uploaded = BlobStore(tmp_path / "home"), dict[str, Path]()
    for name, path in by_name(first).items():
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        with blobs.upload(digest) as upload:
            upload.write(path.read_bytes())
            upload.commit()
        uploaded[name] = blobs.get(digest)
    create(editor, uploaded)
    create(editor, uploaded, "again")
    editor.delete("mine")
    assert len(list(store.layout.blobs.iterdir())) == 3
    editor.delete("again")
    assert list(store.layout.blobs.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NAMES[:2], "^tiny-00003-of-00003.gguf is missing: it is part 3 of 3 of the model"),
        (NAMES[1:], "^tiny-00001-of-00003.gguf is missing: it is part 1 of 3 of the model"),
        (NAMES[:1], "^tiny-00002-of-00003.gguf is missing: it is part 2 of 3 of the model"),
        ([*NAMES, "other.gguf"], "^the files must be one GGUF file, all parts of one"),
        (["a.gguf", "b.gguf"], "^the files must be one GGUF file, all parts of one"),
        ([NAMES[0], "other-00002-of-00003.gguf", NAMES[2]], "^the files must be one GGUF file, all parts of one"),
        ([], "^the files must be one GGUF file, all parts of one"),
    ],
    ids=["no third", "no first", "only the first", "one more", "no parts", "of two models", "none"],
)
def test_files_that_are_not_all_parts_of_one_model(
    editor: ModelEditor, first: Path, names: list[str], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        create(editor, dict.fromkeys(names, first))


def test_a_damaged_part_is_named_without_its_directory(editor: ModelEditor, first: Path, tmp_path: Path) -> None:
    part = first.with_name(NAMES[1])
    part.write_bytes(part.read_bytes()[:-1000])
    with pytest.raises(ModelFormatError, match=r"^tiny-00002-of-00003\.gguf: truncated"):
        create(editor, by_name(first))


def test_a_part_of_another_model_is_refused(editor: ModelEditor, first: Path, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "o.gguf", num_layers=3, tensors_per_part=10)
    shutil.copy(other.with_name("o-00002-of-00003.gguf"), first.with_name(NAMES[1]))
    with pytest.raises(
        ModelFormatError, match=r"^tiny-00002-of-00003\.gguf: .+; a part is damaged or belongs to another model"
    ):
        create(editor, by_name(first))


def cached(first: Path, hub: Path) -> Path:
    """Move the parts into a cache of the hub. Return the first one's path there."""
    snapshot, blobs = hub / "models--Org--Repo" / "snapshots" / "c0ffee", hub / "models--Org--Repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in part_files(first):
        blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot / first.name


def test_a_model_made_from_parts_in_the_hubs_cache_names_them(
    editor: ModelEditor, store: ModelStore, first: Path, tmp_path: Path
) -> None:
    there = cached(first, tmp_path / "hub")
    create(editor, by_name(there))
    assert store.get("mine").path == there
    there.with_name(NAMES[1]).resolve().unlink()  # hf cache rm
    with pytest.raises(
        ModelFormatError, match=r"tiny-00002-of-00003\.gguf of model 'mine:latest' is no longer in the hub"
    ):
        store.get("mine")


def test_links_to_parts_in_the_hubs_cache_are_copied(
    editor: ModelEditor, store: ModelStore, first: Path, tmp_path: Path
) -> None:
    """The files behind the links have other names, by which they cannot be found."""
    there, mine = cached(first, tmp_path / "hub"), tmp_path / "mine"
    mine.mkdir()
    for path in part_files(there):
        (mine / path.name).symlink_to(path.resolve())
    create(editor, by_name(mine / first.name))
    model = store.get("mine")
    assert store.is_own(model.path) and model.digest == store.get(str(there)).digest
    assert [path.stat().st_nlink for path in part_files(there)] == [1, 1, 1]


def remote_parts(first: Path) -> RemoteModel:
    files = tuple(
        RemoteFile(path=f"Q8_0/{path.name}", url="https://hub.example/x", size_bytes=path.stat().st_size)
        for path in part_files(first)
    )
    return RemoteModel(
        name="Org/Repo:Q8_0", source="hf.co/Org/Repo@c0ffee", version="c0ffee", files=files, root=files[0].path
    )


@pytest.mark.parametrize("stays", [False, True])
def test_a_downloaded_model_in_a_subdirectory(editor: ModelEditor, store: ModelStore, first: Path, stays: bool) -> None:
    """Repositories of the hub have the parts of each quantization in a directory."""
    remote = remote_parts(first)
    files = {f"Q8_0/{path.name}": path for path in part_files(first)}
    editor.put_fetched("org/repo:q8_0", remote, Fetched(files=files, stays_at=first if stays else None))
    model = store.get("org/repo:q8_0")
    assert model.path == (first if stays else model.manifest.parent / first.name)  # type: ignore[union-attr]
    assert model.digest == store.get(str(first)).digest and is_shared(model, first)
    editor.copy("org/repo:q8_0", "copy")
    assert is_shared(store.get("copy"), first)


def test_a_stored_model_without_a_part_says_which(editor: ModelEditor, store: ModelStore, first: Path) -> None:
    create(editor, by_name(first))
    store.get("mine").path.with_name(NAMES[2]).unlink()
    with pytest.raises(ModelFormatError, match=r"the file tiny-00003-of-00003\.gguf of model 'mine:latest' is missing"):
        store.get("mine")
    assert store.list() == []
    create(editor, by_name(first))
    assert store.get("mine").digest == store.get(str(first)).digest
