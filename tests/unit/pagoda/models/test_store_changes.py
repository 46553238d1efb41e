"""The store while it changes: readers beside writers, and the leftovers of dead processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pagoda.models import scratch
from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelFormatError, ModelNotFoundError, ModelStoreError
from pagoda.models.formats.description import describe
from pagoda.models.layout import MANIFEST, StoreLayout
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.model_settings import ModelSettings
from pagoda.models.scratch import put_in_place
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings
from tests.fakes.tiny_checkpoint import write_tiny_checkpoint
from tests.fakes.tiny_model import write_tiny_gguf
from tests.unit.pagoda.models.test_model_editor import ignore, make, upload
from worker.loading.local_models import LocalModels
from worker.settings import WorkerSettings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


@pytest.fixture
def editor(home: Path) -> ModelEditor:
    return ModelEditor(ModelStore(home), BlobStore(home))


def settings(system: str) -> ModelSettings:
    return ModelSettings(system=system)


# Readers beside writers


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_model_that_is_replaced_is_never_missing_and_never_mixed(
    home: Path, editor: ModelEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """Both models have files of the same size, and a system prompt that identifies the model."""
    if not can_exchange:
        monkeypatch.setattr(scratch, "_exchange", refuse)
    files = [write_tiny_gguf(tmp_path / f"{number}.gguf", seed=number) for number in range(2)]
    digests = {}
    for number, file in enumerate(files):
        make(editor, "a", file, settings(str(number)))
        digests[editor.get("a").digest] = str(number)
    assert len(digests) == 2
    may_stop = threading.Event()

    def replace() -> None:
        number = 0
        while not may_stop.is_set():
            make(editor, "a", files[number % 2], settings(str(number % 2)))
            number += 1

    reader = ModelStore(home)
    with ThreadPoolExecutor() as pool:
        replacing = pool.submit(replace)
        try:
            for _ in range(300):
                if not can_exchange and reader.layout.find("a:latest") is None:
                    continue  # possible for a moment: see `put_in_place`
                try:
                    model, found = reader.read_current(reader.get("a"), read_settings)
                except ModelNotFoundError:
                    assert not can_exchange
                    continue
                assert found.system == digests[model.digest]
        finally:
            may_stop.set()
        replacing.result()


def replace_with_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def refuse(*paths: Path) -> None:
    raise OSError(22, "Invalid argument")


def test_listings_beside_writers_fail_never_and_workers_learn_all(home: Path, editor: ModelEditor, tiny: Path) -> None:
    """Several threads make 500 changes, each of which would meet an unfinished change of another if one were visible."""
    worker = LocalModels(WorkerSettings(home=home, model=str(tiny), scheduler="unix:/none"))
    num_left = 4

    def change(place: int) -> None:
        nonlocal num_left
        mine = ModelEditor(ModelStore(home), BlobStore(home))
        for number in range(42):
            name = f"n{place}/m{number % 7}"
            make(mine, name, tiny, settings(str(number)))
            make(mine, name, tiny, settings(f"again {number}"))
            assert read_settings(mine.get(name)).system == f"again {number}"
            if number % 7 < 3:
                mine.delete(name)
        num_left -= 1

    def read() -> int:
        listing, num_listings = ModelStore(home), 0
        while num_left:
            listing.list()
            worker.refresh()
            num_listings += 1
        return num_listings

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(1)]
        for writer in [pool.submit(change, place) for place in range(4)]:
            writer.result()
        assert all(reader.result() for reader in readers)
    left = {f"n{place}/m{number}:latest" for place in range(4) for number in range(3, 7)}
    assert {model.name for model in ModelStore(home).list()} == left
    worker.refresh()
    assert {model.name for model in worker.loadable_models().models} == left | {"tiny"}
    assert sorted(each.name for each in (home / "models").iterdir()) == sorted(
        [".lock", ".pulls", ".scratch", "digests.json", *{name.partition(":")[0].replace("/", "%2f") for name in left}]
    )


def test_what_is_gone_or_replaced_in_the_middle_of_a_look(
    home: Path, editor: ModelEditor, tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(editor, "a", tiny)
    make(editor, "b", tiny)
    reader = ModelStore(home)
    begun: list[str] = []

    def delete_first(name: str, *rest: object, **more: object) -> Model:
        if name == "a:latest" and not begun:
            begun.append(name)
            editor.delete("a")
        return describe(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("pagoda.models.store.describe", delete_first)
    assert [model.name for model in reader.list()] == ["b:latest"]
    with pytest.raises(ModelNotFoundError, match="model 'a' not found"):
        editor.get("a")
    assert caplog.records == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda manifest: manifest.write_text(""),
        lambda manifest: manifest.write_text('{"name": "bad:late'),
        lambda manifest: manifest.write_text("[" * 100_000),
        lambda manifest: manifest.write_text('{"file": "../../x"}'),
        lambda manifest: manifest.write_bytes(b"\xff\xfe\x00"),
        lambda manifest: (manifest.unlink(), manifest.mkdir()),
        lambda manifest: (manifest.unlink(), manifest.symlink_to(manifest)),
        lambda manifest: replace_with_a_pipe(manifest),
        lambda manifest: replace_with_a_pipe(manifest.parent / "model.gguf"),
        lambda manifest: (manifest.parent / "model.gguf").write_bytes(b"GGUF"),
        lambda manifest: (manifest.parent / "model.gguf").unlink(),
        lambda manifest: ((manifest.parent / "model.gguf").unlink(), (manifest.parent / "model.gguf").mkdir()),
    ],
)
def test_one_damaged_model_hides_no_other_and_is_told_of_once(
    home: Path,
    editor: ModelEditor,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    for name in ("bad", "good"):
        make(editor, name, write_tiny_gguf(tmp_path / f"{name}.gguf"))
    reader = ModelStore(home)
    damage(home / "models" / "bad" / "latest" / MANIFEST)
    with pytest.raises(ModelNotFoundError, match=r"'other' is not on this machine .here: .*good:latest"):
        reader.get("other")
    assert caplog.records == []
    for _ in range(3):
        assert [model.name for model in reader.list()] == ["good:latest"]
    assert [record.getMessage() for record in caplog.records] == ["model cannot be read"]
    with pytest.raises(ModelFormatError) as caught:
        reader.get("bad")
    assert str(home) not in str(caught.value) or "damaged" in str(caught.value)
    editor.delete("bad")
    make(editor, "bad", tmp_path / "good.gguf")
    assert [model.name for model in reader.list()] == ["bad:latest", "good:latest"]


@pytest.mark.parametrize("place", [".", "strange"])
def test_links_in_the_store_that_lead_nowhere_hide_no_model(
    home: Path, editor: ModelEditor, tiny: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    make(editor, "good", tiny)
    directory = home / "models" / place
    directory.mkdir(exist_ok=True)
    (directory / "dangling").symlink_to("/nonexistent/model")
    (directory / "circle").symlink_to(directory / "circle")
    (directory / "behind-a-circle").symlink_to(directory / "circle" / "model")
    (directory / "file").write_text("notes")
    os.mkfifo(directory / "pipe")
    reader = ModelStore(home)
    for _ in range(2):
        assert [model.name for model in reader.list()] == ["good:latest"]
    assert sorted(record.__dict__["directory"] for record in caplog.records) == [
        str(directory / "behind-a-circle"),
        str(directory / "circle"),
    ]
    make(editor, "another", tiny)
    assert reader.get("another").name == "another:latest"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_among_the_files_of_a_checkpoint_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", {})
    replace_with_a_pipe(checkpoint / name)
    with pytest.raises(ModelFormatError, match=f"{name} is not a file"):
        ModelStore(home).get(str(checkpoint))


def test_a_worker_looks_again_when_a_look_has_failed(
    home: Path, editor: ModelEditor, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = LocalModels(WorkerSettings(home=home, model=str(tiny), scheduler="unix:/none"))
    worker.refresh()
    make(editor, "new", tiny)
    with monkeypatch.context() as patched:
        patched.setattr(ModelStore, "list", refuse)
        with pytest.raises(OSError, match="Invalid argument"):
            worker.refresh()
    assert worker.refresh()
    assert [model.name for model in worker.loadable_models().models] == ["new:latest", "tiny"]


def test_a_full_disk_is_said_without_a_path(
    home: Path, editor: ModelEditor, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(editor, "a", tiny, settings("before"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(home))

    monkeypatch.setattr("pagoda.models.model_editor.write_atomically", full)
    with pytest.raises(ModelStoreError, match=r"^the model could not be stored: No space left on device$"):
        make(editor, "a", tiny, settings("after"))
    assert read_settings(editor.get("a")).system == "before"
    assert list((home / "models" / ".scratch").iterdir()) == []


# Leftovers of dead processes

WORK = """
import sys, time
from pathlib import Path
from pagoda.models.blobs import BlobStore
from pagoda.models.layout import StoreLayout
from pagoda.models.scratch import Scratch
home = Path(sys.argv[1])
with BlobStore(home).upload("sha256:" + "0" * 64) as upload, Scratch(StoreLayout(home)).directory() as directory:
    upload.write(b"x" * 100_000)
    (directory / "new").mkdir()
    print("working", flush=True)
    time.sleep(1000)
"""


def scratch_directories(home: Path) -> list[Path]:
    return list(StoreLayout(home).scratch.iterdir())


def test_the_work_of_a_process_is_swept_once_it_is_dead_and_not_before(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORK, str(home)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"working\n"
            ModelStore(home).tidy()
            assert len(scratch_directories(home)) == 2
            process.send_signal(signal.SIGSTOP)
            ModelStore(home).tidy()
            assert len(scratch_directories(home)) == 2
        finally:
            process.kill()
    ModelStore(home).tidy()
    assert scratch_directories(home) == []


def test_whoever_begins_some_work_sweeps_too(home: Path, editor: ModelEditor, tiny: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WORK, str(home)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"working\n"
        process.kill()
    make(editor, "a", tiny)
    assert scratch_directories(home) == []


def make_old(path: Path) -> None:
    an_hour_ago = time.time() - scratch.ABANDONED_AFTER_S - 1
    for each in (*path.rglob("*"), path):
        os.utime(each, (an_hour_ago, an_hour_ago))


def test_another_machines_work_is_left_alone_for_an_hour(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of another machine are not visible here on file systems that keep locks per machine."""
    other = home / "models" / ".scratch" / "another-1"
    (other / "work").mkdir(parents=True)
    (other / "lock").touch()
    ModelStore(home).tidy()
    assert other.exists()
    make_old(other)
    ModelStore(home).tidy()
    assert not other.exists()


def test_what_earlier_versions_left_is_swept_when_it_is_old(home: Path, editor: ModelEditor, tiny: Path) -> None:
    make(editor, "a", tiny)
    digest = upload(BlobStore(home), b"content")
    models = home / "models"
    left = [models / ".new-1", models / ".old-1", models / "blobs" / ".upload-1"]
    for path in left[:2]:
        (path / "files").mkdir(parents=True)
    left[2].write_bytes(b"half")
    ModelStore(home).tidy()
    assert all(path.exists() for path in left)
    assert [model.name for model in ModelStore(home).list()] == ["a:latest"]
    for path in left:
        make_old(path)
    ModelStore(home).tidy()
    assert not any(path.exists() for path in left)
    assert editor.has("a") and BlobStore(home).has(digest)


def test_a_store_that_cannot_be_changed_is_left_as_it_is(
    home: Path, editor: ModelEditor, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(editor, "a", tiny)

    def read_only(self: StoreLayout) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(StoreLayout, "changing", read_only)
    ModelStore(home).tidy()
    assert editor.get("a").name == "a:latest"


def test_the_same_blob_uploaded_by_many_at_once(home: Path, editor: ModelEditor, tiny: Path) -> None:
    """Each upload is verified; one copy is kept, and is deleted with the last model that uses it."""
    blobs = BlobStore(home)
    with ThreadPoolExecutor(max_workers=8) as pool:
        digests = {each.result() for each in [pool.submit(upload, blobs, tiny.read_bytes()) for _ in range(8)]}
    (digest,) = digests
    make(editor, "a", blobs.get(digest))
    assert upload(blobs, tiny.read_bytes()) == digest
    assert blobs.get(digest).samefile(editor.get("a").path)
    editor.delete("a")
    assert not blobs.has(digest) and scratch_directories(home) == []


def test_the_blob_of_a_replaced_model_goes_unless_it_is_used(home: Path, editor: ModelEditor, tiny: Path) -> None:
    blobs = BlobStore(home)
    digest = upload(blobs, tiny.read_bytes())
    make(editor, "a", blobs.get(digest))
    make(editor, "a", blobs.get(digest), settings("again"))
    assert blobs.has(digest)
    other = write_tiny_gguf(home / "other.gguf", seed=1)
    make(editor, "a", other)
    assert not blobs.has(digest)


def test_a_blob_that_vanishes_before_it_is_used(editor: ModelEditor, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"^the file gone\.gguf no longer exists$"):
        editor.create_from_files("a", {"gone.gguf": tmp_path / "gone.gguf"}, ModelSettings(), ignore)


def test_an_old_digest_counts_and_files_of_one_tick_are_told_apart(home: Path, tmp_path: Path) -> None:
    first, second = (write_tiny_gguf(tmp_path / f"{seed}.gguf", seed=seed) for seed in range(2))
    for file in (first, second):
        os.utime(file, ns=(0, 0))
    editor = ModelEditor(ModelStore(home), BlobStore(home))
    digests = set()
    for file in (first, second):
        make(editor, "a", file)
        digests.add(editor.get("a").digest)
    assert len(digests) == 2
    key = f"{editor.get('a').path}|{second.stat().st_size}|0"
    (home / "models" / "digests.json").write_text(json.dumps({key: "as it was written"}))
    assert ModelStore(home).get("a").digest == "as it was written"


def test_put_in_place_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, can_exchange in enumerate((True, False)):
        if not can_exchange:
            monkeypatch.setattr(scratch, "_exchange", refuse)
        made, target = tmp_path / f"made{number}", tmp_path / f"t{number}" / "latest"
        (made / "first").mkdir(parents=True)
        assert not put_in_place(made, target) and not made.exists()
        (made / "second").mkdir(parents=True)
        assert put_in_place(made, target)
        assert [each.name for each in (*target.iterdir(), *made.iterdir())] == ["second", "first"]
