"""Names and directories of models: no two names share a directory, and none collides with the store's own files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelNotFoundError
from pagoda.models.layout import StoreLayout, decode_name, encode_name
from pagoda.models.model_editor import ModelEditor
from pagoda.models.names import NAME, normalize_name
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_model_editor import make, upload

LAYOUT = StoreLayout(Path("/home"))
PARTS = st.one_of(
    st.from_regex(r"[a-z0-9][a-z0-9._-]{0,9}", fullmatch=True),
    st.sampled_from(
        ("x", "y", "x--y", "x-", "-y", "x%2fy", "blobs", "%62lobs", "digests.json", "a.", "a..b", "2f", "x-2fy", "x2fy")
    ),
    st.sampled_from(("library", "localhost:5", "5", "x@y", "x@y/z", "hf.co", "registry.ollama.ai", "3a5")),
)


def names() -> st.SearchStrategy[str]:
    """Return a strategy for valid model names, some of which are chosen to collide."""
    texts = st.builds(lambda parts, tag: f"{'/'.join(parts)}:{tag}", st.lists(PARTS, min_size=1, max_size=3), PARTS)
    return st.one_of(texts, st.from_regex(NAME, fullmatch=True)).filter(is_name).map(normalize_name)


def is_name(text: str) -> bool:
    try:
        normalize_name(text)
    except ModelNotFoundError:
        return False
    return True


@given(names())
def test_a_name_is_found_again_in_its_directory(name: str) -> None:
    assert decode_name(encode_name(name)) == name


@given(names(), names())
def test_names_that_differ_have_directories_that_differ(one: str, other: str) -> None:
    """Directories differ on case-insensitive file systems too, because they have no upper case."""
    paths = [LAYOUT.directory(each) for each in (one, other)]
    assert (one == other) == (paths[0] == paths[1])
    assert all(str(path) == str(path).lower() and str(path).isascii() for path in paths)


@given(names())
def test_no_name_has_the_place_of_something_else(name: str) -> None:
    directory = LAYOUT.directory(name)
    assert directory.parent.parent == LAYOUT.models
    assert directory.parent not in (LAYOUT.blobs, LAYOUT.digests, LAYOUT.scratch)
    assert not directory.parent.name.startswith(".") and not directory.name.startswith(".")


@given(names())
def test_every_name_is_short_enough_for_file_systems(name: str) -> None:
    directory = LAYOUT.directory(name)
    assert max(map(len, (directory.parent.name, directory.name, LAYOUT.lock_of(directory).name))) <= 255


@pytest.fixture
def editor(tmp_path: Path) -> ModelEditor:
    return ModelEditor(ModelStore(tmp_path), BlobStore(tmp_path))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x/y", "x--y"),
        ("x/y:b", "x--y:b"),
        ("a:b--c", "a--b:c"),
        ("a/b:c", "a:b"),
        ("x-/y", "x/-y"),
        ("x/y", "x.y"),
        ("a", "a:b"),
    ],
)
def test_copying_onto_and_deleting_one_leaves_the_other(editor: ModelEditor, tiny: Path, one: str, other: str) -> None:
    if not is_name(other):
        with pytest.raises(ModelNotFoundError):
            make(editor, other, tiny)
        return
    make(editor, one, tiny)
    editor.copy(one, other)
    assert [editor.get(name).name for name in (one, other)] == [normalize_name(one), normalize_name(other)]
    editor.delete(one)
    assert not editor.has(one) and editor.get(other).name == normalize_name(other)


def test_models_named_as_the_stores_own_files(editor: ModelEditor, tiny: Path, tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    digest = upload(blobs, tiny.read_bytes())
    make(editor, f"blobs:{digest.replace(':', '-')}", tiny)
    make(editor, "digests.json", tiny)
    make(editor, "blobs", tiny)
    assert blobs.get(digest).read_bytes() == tiny.read_bytes()
    assert {model.name for model in ModelStore(tmp_path).list()} == {
        f"blobs:{digest.replace(':', '-')}",
        "blobs:latest",
        "digests.json:latest",
    }
    other = "sha256:" + "0" * 64
    make(editor, f"blobs:{other.replace(':', '-')}", tiny)
    assert not blobs.has(other)
    for name in ("blobs", "digests.json"):
        editor.delete(name)
    assert blobs.has(digest)


def write_old(home: Path, place: str, name: str, tiny: Path) -> None:
    """Write a model as earlier versions did."""
    directory = home / "models" / place
    directory.mkdir(parents=True)
    (directory / "model.gguf").hardlink_to(tiny)
    (directory / "manifest.json").write_text(json.dumps({"name": name, "file": "model.gguf", "settings": {}}))


@pytest.fixture
def old_home(tmp_path: Path, tiny: Path) -> Path:
    write_old(tmp_path, "x--y/latest", "x/y:latest", tiny)
    write_old(tmp_path, "x--y/plain", "x--y:plain", tiny)
    write_old(tmp_path, "blobs/latest", "blobs:latest", tiny)
    write_old(tmp_path, "smollm2/135m", "smollm2:135m", tiny)
    write_old(tmp_path, "library%2fmine/1b", "library/mine:1b", tiny)
    return tmp_path


OLD_NAMES = ["blobs:latest", "mine:1b", "smollm2:135m", "x--y:plain", "x/y:latest"]


def test_what_earlier_versions_left_is_found_where_it_is(old_home: Path) -> None:
    editor = ModelEditor(ModelStore(old_home), BlobStore(old_home))
    assert [model.name for model in ModelStore(old_home).list()] == OLD_NAMES
    assert all(editor.get(name).name == name for name in OLD_NAMES)
    assert not editor.has("x--y:latest") and not editor.has("x/y:plain")
    assert (old_home / "models" / "x--y" / "latest").exists(), "reading moves nothing"


@pytest.mark.parametrize("change", ["tidy", "create", "delete"])
def test_and_moved_with_the_first_change(old_home: Path, tiny: Path, change: str) -> None:
    store = ModelStore(old_home)
    editor = ModelEditor(store, BlobStore(old_home))
    match change:
        case "tidy":
            store.tidy()
        case "create":
            make(editor, "x--y", tiny)
        case "delete":
            editor.delete("x--y:plain")
    left = {"tidy": OLD_NAMES, "create": [*OLD_NAMES, "x--y:latest"], "delete": [*OLD_NAMES]}[change]
    left = [name for name in left if change != "delete" or name != "x--y:plain"]
    assert [model.name for model in store.list()] == sorted(left)
    for name in left:
        manifest = store.layout.find(name)
        assert manifest is not None and manifest.parent == store.layout.directory(name)
    editor.delete("x/y")
    assert not editor.has("x/y")


def test_a_directory_that_is_none_of_the_stores(tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The other models are listed, and the directory is logged once."""
    write_old(tmp_path, "My Model/latest", "mine:latest", tiny)
    write_old(tmp_path, "good/latest", "good:latest", tiny)
    store = ModelStore(tmp_path)
    for _ in range(3):
        assert [model.name for model in store.list()] == ["good:latest"]
    (record,) = caplog.records
    assert "has no valid model name" in str(vars(record)["reason"])
