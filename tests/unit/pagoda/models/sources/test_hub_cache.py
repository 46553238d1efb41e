"""Tests of the cache that Pagoda shares with programs that use huggingface_hub."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import NoReturn

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from pagoda.models.errors import ModelFormatError, ModelSourceError
from pagoda.models.sources import hub_cache
from pagoda.models.sources.progress import Progress, Stage
from tests.fakes.hub_server import FakeHub
from tests.fakes.hub_user import HubUser
from tests.fakes.waiting import until

WEIGHTS = (".gguf", ".safetensors")


def requested_weights(hub: FakeHub) -> list[str]:
    return [path for path in hub.paths() if path.endswith(WEIGHTS) or path.startswith("/storage/")]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_library_reads_what_was_pulled(hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    commit = hub.add("Org/Tiny", {**checkpoint, "README.md": b"-"})
    user.pull("Org/Tiny")
    hub.seen.clear()
    snapshot = user.snapshot("Org/Tiny", commit)
    assert user.run_library("snapshot_download('Org/Tiny', local_files_only=True)") == str(snapshot)
    assert user.run_library("snapshot_download('Org/Tiny')", HF_HUB_OFFLINE="1") == str(snapshot)
    path = str(snapshot / "model-00001-of-00002.safetensors")
    assert user.run_library("try_to_load_from_cache('Org/Tiny', 'model-00001-of-00002.safetensors')") == path
    assert not any("Tiny" in path for path in hub.paths())
    code = "snapshot_download('Org/Tiny', allow_patterns=['*.safetensors', '*.json'])"
    assert user.run_library(code) == str(snapshot)
    assert user.run_library("hf_hub_download('Org/Tiny', 'model-00001-of-00002.safetensors')") == path
    assert not any(path.startswith("/storage/") for path in hub.paths(method="GET"))
    code = (
        "[[repo.repo_id, repo.nb_files] for repo in scan_cache_dir().repos] + list(map(str, scan_cache_dir().warnings))"
    )
    assert user.run_library(code) == [["Org/Tiny", len(checkpoint)]]


def test_what_the_library_downloaded_is_read(hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    commit = hub.add("Org/Tiny", {**checkpoint, "README.md": b"-"})
    assert user.run_library("snapshot_download('Org/Tiny')") == str(user.snapshot("Org/Tiny", commit))
    hub.seen.clear()
    assert user.resolve("Org/Tiny").is_cached
    model = user.pull("Org/Tiny")
    assert model.path == user.snapshot("Org/Tiny", commit)
    assert not any("/resolve/" in path and "index.json" not in path for path in hub.paths())
    assert requested_weights(hub) == []


def test_weights_of_the_library_are_read_and_small_files_downloaded(
    hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]
) -> None:
    commit = hub.add("Org/Tiny", checkpoint)
    user.run_library("snapshot_download('Org/Tiny', allow_patterns='*.safetensors')")
    hub.seen.clear()
    assert user.pull("Org/Tiny").path == user.snapshot("Org/Tiny", commit)
    assert not any(path.endswith(".safetensors") for path in hub.paths())
    assert any(path.endswith("config.json") for path in hub.paths())


def test_gguf_file_of_the_library(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "tiny-Q4_0.gguf": b"-"})
    path = user.run_library("hf_hub_download('Org/Tiny', 'tiny-Q8_0.gguf')")
    hub.seen.clear()
    assert str(user.pull("Org/Tiny:Q8_0").path) == path
    assert requested_weights(hub) == []


@pytest.mark.parametrize("damage", ["content", "size", "dangling link", "file in place of a link"])
def test_wrong_file_of_another_program_is_downloaded_again(
    hub: FakeHub, user: HubUser, gguf: bytes, damage: str
) -> None:
    commit = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.run_library("hf_hub_download('Org/Tiny', 'tiny-Q8_0.gguf')")
    blob = user.repo("Org/Tiny") / "blobs" / sha256(gguf)
    pointer = user.snapshot("Org/Tiny", commit) / "tiny-Q8_0.gguf"
    match damage:
        case "content":
            blob.write_bytes(gguf[:-1] + b"!")
        case "size":
            blob.write_bytes(gguf[:-1])
        case "dangling link":
            blob.unlink()
        case _:
            pointer.unlink()
            pointer.write_bytes(gguf[:-1] + b"!")
    model = user.pull("Org/Tiny")
    assert (model.path.read_bytes(), blob.read_bytes(), model.digest) == (gguf, gguf, sha256(gguf))
    assert pointer.is_symlink()


def test_link_to_a_shared_blob_is_replaced_and_the_shared_blob_kept(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    shared = user.cache / "blobs/ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    shared.write_bytes(gguf[:-1] + b"!")
    blob = user.repo("Org/Tiny") / "blobs" / sha256(gguf)
    blob.parent.mkdir(parents=True)
    blob.symlink_to(shared)
    assert user.pull("Org/Tiny").path.read_bytes() == gguf
    assert shared.read_bytes() == gguf[:-1] + b"!"
    shared.write_bytes(gguf)
    blob.unlink()
    blob.symlink_to(shared)
    shutil.rmtree(user.home)
    hub.seen.clear()
    assert user.pull("Org/Tiny").digest == sha256(gguf)
    assert requested_weights(hub) == []


def refuse_links(source: object, target: object) -> NoReturn:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("how", ["variable", "no symbolic links", "no links at all"])
def test_without_symbolic_links(
    hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "variable":
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    else:
        monkeypatch.setattr("os.symlink", refuse_links)
    if how == "no links at all":
        monkeypatch.setattr("os.link", refuse_links)
    files = {**checkpoint, "special_tokens_map.json": b"{}", "added_tokens.json": b"{}"}
    commit = hub.add("Org/Tiny", files)
    snapshot = user.pull("Org/Tiny").path
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == files
    assert not any(path.is_symlink() for path in snapshot.iterdir())
    assert list((user.repo("Org/Tiny") / "blobs").iterdir()) == []
    shutil.rmtree(user.home)
    hub.seen.clear()
    assert user.pull("Org/Tiny").path == snapshot == user.snapshot("Org/Tiny", commit)
    assert requested_weights(hub) == []
    assert user.run_library("snapshot_download('Org/Tiny', local_files_only=True)") == str(snapshot)


def test_cache_that_cannot_be_written(
    hub: FakeHub, user: HubUser, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "tiny-Q4_0.gguf": gguf + b"-"})
    user.run_library("hf_hub_download('Org/Tiny', 'tiny-Q8_0.gguf')")
    (user.repo("Org/Tiny") / "refs/main").unlink()

    def refuse(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(hub_cache.HubCache, "_create", refuse)
    with pytest.raises(ModelSourceError) as failure:
        user.pull("Org/Tiny:Q4_0")
    assert str(failure.value) == (
        f"the hub's cache {user.cache} cannot be written: Read-only file system; "
        "make space or set HF_HUB_CACHE to another directory"
    )


def test_complete_cache_that_cannot_be_written(
    hub: FakeHub, user: HubUser, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.run_library("hf_hub_download('Org/Tiny', 'tiny-Q8_0.gguf')")
    refs = user.repo("Org/Tiny") / "refs"
    shutil.rmtree(refs)
    refs.write_text("not a directory")
    shutil.rmtree(user.cache / ".locks")
    (user.cache / ".locks").write_text("not a directory")
    assert user.pull("Org/Tiny").digest == sha256(gguf)


def test_cache_that_is_a_file(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.cache.parent.mkdir(exist_ok=True)
    user.cache.write_text("")
    with pytest.raises(ModelSourceError, match="cannot be written: Not a directory"):
        user.pull("Org/Tiny")


def test_a_pull_repairs_the_weights_of_a_model(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.pull("Org/Tiny").path.write_bytes(gguf[:-1] + b"!")
    assert user.pull("Org/Tiny").path.read_bytes() == gguf


def test_damaged_weights_that_cannot_be_downloaded_again(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.pull("Org/Tiny").path.write_bytes(gguf[:-1] + b"!")
    with pytest.raises(
        ModelFormatError, match="the weights of org/tiny:latest are damaged, and could not be downloaded"
    ):
        user.with_settings(is_offline=True).pull("Org/Tiny")


def test_a_link_that_cannot_be_made_leaves_nothing(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    pointer = user.snapshot("Org/Tiny", hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})) / "tiny-Q8_0.gguf"
    pointer.mkdir(parents=True)
    with pytest.raises(ModelSourceError, match="cannot be written: Is a directory"):
        user.pull("Org/Tiny")
    assert list(pointer.parent.iterdir()) == [pointer]


def test_abandoned_downloads_are_deleted(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    blobs = user.repo("Org/Other") / "blobs"
    blobs.mkdir(parents=True)
    names = ("abandoned.partial", "abandoned.partial.state", "recent.partial", "complete", "complete.partial")
    for name in names:
        (blobs / name).write_text("-")
    three_weeks_ago = time.time() - 21 * 24 * 3600
    for name in ("abandoned.partial", "abandoned.partial.state", "complete"):
        os.utime(blobs / name, (three_weeks_ago, three_weeks_ago))
    user.pull("Org/Tiny")
    assert sorted(path.name for path in blobs.iterdir()) == ["complete", "recent.partial"]


async def test_download_of_another_program_is_awaited(
    hub: FakeHub, user: HubUser, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cache, "_LOCK_POLL_S", 0.01)
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    lock = user.cache / ".locks/models--Org--Tiny" / f"{sha256(gguf)}.lock"
    lock.parent.mkdir(parents=True)
    waiting: list[Progress] = []
    thread = threading.Thread(
        target=lambda: user.pull("Org/Tiny", lambda progress: _note_waiting(progress, waiting)), daemon=True
    )
    with WeakFileLock(lock):
        thread.start()
        await until(lambda: len(waiting) >= 2)
        num_requests = len(requested_weights(hub))
        blob = user.repo("Org/Tiny") / "blobs" / sha256(gguf)
        blob.write_bytes(gguf)
    thread.join()
    assert user.store.get("Org/Tiny").path.read_bytes() == gguf
    assert len(requested_weights(hub)) == num_requests  # those for the header


def test_wait_for_another_program_can_be_cancelled(
    hub: FakeHub, user: HubUser, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_cache, "_LOCK_POLL_S", 0.01)
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    lock = user.cache / ".locks/models--Org--Tiny" / f"{sha256(gguf)}.lock"
    lock.parent.mkdir(parents=True)

    def cancel(progress: Progress) -> None:
        if progress.stage is Stage.DOWNLOADING:
            raise KeyboardInterrupt

    with WeakFileLock(lock), pytest.raises(KeyboardInterrupt):
        user.pull("Org/Tiny", cancel)


def _note_waiting(progress: Progress, waiting: list[Progress]) -> None:
    if progress.stage is Stage.DOWNLOADING and progress.completed_bytes == 0:
        waiting.append(progress)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HUB_CACHE": "/a/hub", "HF_HOME": "/b"}, "/a/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/c", "HF_HOME": "/b"}, "/c"),
        ({"HF_HOME": "/b"}, "/b/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HOME": "/home/me"}, "/home/me/.cache/huggingface/hub"),
        ({"HF_HOME": "~/hf", "HOME": "/home/me"}, "/home/me/hf/hub"),
        ({"HF_HUB_CACHE": "$DISK/hub", "DISK": "/disk"}, "/disk/hub"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_directory_of_the_cache_is_the_librarys(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program = """
from huggingface_hub import constants
from pagoda.models.sources.hub_cache import cache_directory
from pagoda.models.sources.settings import SourceSettings
print(cache_directory(SourceSettings.from_environment()), constants.HF_HUB_CACHE)
"""
    output = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert output.stdout.split() == [expected, expected]
