"""Tests of pulls from a registry into the store: whole models, shared blobs, updates, and interrupted downloads."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagoda.models.blobs import BlobStore
from pagoda.models.errors import ModelAccessError, ModelFormatError, ModelNotFoundError, ModelSourceError
from pagoda.models.model import Model
from pagoda.models.model_editor import ModelEditor
from pagoda.models.ollama_objects import shown
from pagoda.models.pull import ABANDONED_AFTER_S, ModelPuller
from pagoda.models.sampling_defaults import SamplingPolicy
from pagoda.models.sources import attempts, registry_client
from pagoda.models.sources.partial_file import PartialFile
from pagoda.models.sources.progress import OnProgress, Progress, Stage
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.store import ModelStore
from pagoda.models.stored_settings import read_settings
from tests.fakes.hub_server import FakeHub, running_hub
from tests.fakes.registry_server import FakeRegistry, digest_of, fake_registry
from tests.fakes.tiny_model import write_tiny_gguf

LAYERS = (
    ("template", b"{{ .System }}{{ .Prompt }}"),
    ("system", b"Be brief."),
    ("params", b'{"temperature": 0.6, "stop": ["<|im_end|>"]}'),
    ("messages", b'[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy"}]'),
    ("license", b"Apache"),
    ("license", b"MIT"),
)
CHILD = """
import sys
from pathlib import Path
from pagoda.models.pull import open_puller
def report(progress):
    print(progress.completed_bytes, flush=True)
open_puller(Path(sys.argv[1])).pull(sys.argv[2], report)
"""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a model of 3 MB. Its header is in the first MB, which is read before the download."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_tiny_gguf(path, hidden_size=128, intermediate_size=512).read_bytes()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as registry:
        yield registry


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(attempts, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def ignore(progress: Progress) -> None:
    pass


def store_of(home: Path, registry: FakeRegistry, *ollama_stores: Path) -> ModelStore:
    return ModelStore(home, sources=SourceSettings(registry_url=registry.url, ollama_stores=ollama_stores))


def pull(home: Path, registry: FakeRegistry, name: str, on_progress: OnProgress = ignore, **options: bool) -> Model:
    store = store_of(home, registry)
    return ModelPuller(store, ModelEditor(store, BlobStore(home))).pull(name, on_progress, **options)


def blobs(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "models" / "blobs").glob("*"))


def blob_name(content: bytes) -> str:
    return digest_of(content).replace(":", "-")


def downloads_of(registry: FakeRegistry, content: bytes) -> int:
    """Return how often the whole blob was asked for."""
    stored = registry.requests_of(f"/storage/{digest_of(content)}")
    return len([each for each in stored if each.range is None])


def disk_bytes(home: Path) -> int:
    """Return the size of all files, each once, however many names it has."""
    files = [path.stat() for path in home.rglob("*") if path.is_file()]
    return sum({status.st_ino: status.st_size for status in files}.values())


# Whole models


def test_all_layers_of_a_model_arrive(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    version = registry.publish("library/tiny:latest", gguf, layers=LAYERS)
    stages: list[Progress] = []
    model = pull(home, registry, "Tiny", stages.append)
    assert (model.name, model.path.name, f"sha256:{model.digest}") == ("tiny:latest", "model.gguf", digest_of(gguf))
    assert model.path.read_bytes() == gguf
    assert model.manifest is not None
    manifest = json.loads(model.manifest.read_bytes())
    assert (manifest["source"], manifest["version"]) == ("registry.ollama.ai/library/tiny:latest", version)

    details = shown(model, SamplingPolicy(), verbose=False)
    assert details["system"] == "Be brief."
    assert details["template"] == "{{ .System }}{{ .Prompt }}"
    assert details["license"] == "Apache\nMIT"
    assert [message["content"] for message in details["messages"]] == ["Hi", "Ahoy"]
    assert "temperature                    0.6" in details["parameters"]
    assert '"<|im_end|>"' in details["parameters"]

    completed = [progress.completed_bytes for progress in stages if progress.stage is Stage.DOWNLOADING]
    assert completed == sorted(completed)
    assert completed[-1] == len(gguf)
    assert [each.stage for each in stages][-2:] == [Stage.VERIFYING, Stage.DONE]


@pytest.mark.parametrize("answer", ["307", "200 + Location", "body", "body + own Location"])
@pytest.mark.parametrize("has_ranges", [True, False], ids=["ranges", "no ranges"])
def test_weights_come_from_the_storage_or_the_registry(
    home: Path, registry: FakeRegistry, gguf: bytes, answer: str, has_ranges: bool
) -> None:
    registry.answers_with, registry.has_ranges = answer, has_ranges
    registry.needs_token = True
    registry.link_uses = 1  # each request begins at the registry
    registry.publish("library/tiny:latest", gguf, layers=LAYERS)
    assert pull(home, registry, "tiny").path.read_bytes() == gguf
    assert [each for each in registry.requests_of("/storage/") if each.token is not None] == []
    assert all(each.token is not None for each in registry.requests_of("/blobs/"))


@pytest.mark.parametrize(
    ("name", "published", "stored"),
    [
        ("tiny:1b", "library/tiny:1b", "tiny:1b"),
        ("registry.ollama.ai/me/tiny", "me/tiny:latest", "registry.ollama.ai/me/tiny:latest"),
        ("{host}/team/tiny:v1", "team/tiny:v1", "{host}/team/tiny:v1"),
    ],
    ids=["tag", "namespace", "host"],
)
def test_a_model_is_found_again_by_its_name(
    home: Path, registry: FakeRegistry, gguf: bytes, name: str, published: str, stored: str
) -> None:
    registry.publish(published, gguf)
    name, stored = name.format(host=registry.host), stored.format(host=registry.host)
    model = pull(home, registry, name, insecure=True)
    store = store_of(home, registry)
    assert model.name == stored
    assert store.get(name) == store.get(stored) == model
    assert [each.name for each in store.list()] == [stored]
    assert pull(home, registry, stored, insecure=True) == model
    assert downloads_of(registry, gguf) == 1


def test_the_name_of_another_registry_is_in_the_case_of_the_registry(
    home: Path, registry: FakeRegistry, gguf: bytes
) -> None:
    registry.publish("Team/Tiny:V1", gguf)
    model = pull(home, registry, f"{registry.host}/Team/Tiny:V1", insecure=True)
    assert model.name == f"{registry.host}/Team/Tiny:V1"
    assert store_of(home, registry).get(f"{registry.host}/team/tiny:v1") == model


def test_a_token_that_expires_during_the_download_is_replaced(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.needs_token = True
    registry.token_uses = 1
    registry.breaks = [len(gguf) // 2] * 4
    registry.publish("library/tiny:latest", gguf)
    assert pull(home, registry, "tiny").path.read_bytes() == gguf
    assert len(registry.requests_of("/token")) > 4


def test_what_is_not_used_is_said_before_the_download(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf, layers=[("projector", b"vision")])
    reported: list[Progress] = []
    pull(home, registry, "tiny", reported.append)
    checking = next(each for each in reported if each.stage is Stage.CHECKING)
    assert checking.remote is not None
    (warning,) = checking.remote.warnings
    assert "vision part" in warning


def test_a_model_that_cannot_be_used_is_not_downloaded(home: Path, registry: FakeRegistry, tmp_path: Path) -> None:
    other = write_tiny_gguf(tmp_path / "other.gguf", hidden_size=128, intermediate_size=512, architecture="mamba")
    registry.publish("library/other:latest", other.read_bytes())
    with pytest.raises(ModelFormatError, match="mamba"):
        pull(home, registry, "other")
    assert downloads_of(registry, other.read_bytes()) == 0
    assert blobs(home) == []
    with pytest.raises(ModelNotFoundError):
        store_of(home, registry).get("other")


# Faults


def test_a_broken_download_continues(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.breaks = [500_000, 700_000, 0, 1_500_000]
    assert pull(home, registry, "tiny").path.read_bytes() == gguf
    assert any(each.range and not each.range.startswith("bytes=0-") for each in registry.asked)


def test_busy_storage_is_asked_again(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    stored, blob = f"/storage/{digest_of(gguf)}", f"/blobs/{digest_of(gguf)}"
    registry.statuses = [(stored, 503), (blob, 429), (stored, 500), (blob, 502)]
    assert pull(home, registry, "tiny").path.read_bytes() == gguf
    assert registry.statuses == []


def test_other_bytes_than_the_digest_says_are_never_stored(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.blobs[digest_of(gguf)] = gguf[:-1] + b"!"
    with pytest.raises(ModelSourceError, match="SHA-256 mismatch"):
        pull(home, registry, "tiny")
    assert blob_name(gguf) not in blobs(home)
    assert store_of(home, registry).list() == []


@pytest.mark.parametrize("difference", [-1000, 1000], ids=["shorter", "longer"])
def test_a_manifest_that_lies_about_the_size(home: Path, registry: FakeRegistry, gguf: bytes, difference: int) -> None:
    registry.publish("library/tiny:latest", gguf, sizes={"model": len(gguf) + difference})
    with pytest.raises((ModelSourceError, ModelFormatError)):
        pull(home, registry, "tiny")
    assert blob_name(gguf) not in blobs(home)
    assert store_of(home, registry).list() == []


def test_a_blob_that_is_gone(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    del registry.blobs[digest_of(gguf)]
    with pytest.raises(ModelSourceError, match=r"127\.0\.0\.1 .*404"):
        pull(home, registry, "tiny")


def test_a_model_that_changes_during_the_download(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    """The registry deletes the old blob as soon as the client has read the header of the weights."""
    registry.publish("library/tiny:latest", gguf)

    def change(path: str) -> None:
        if digest_of(gguf) in registry.blobs and len(registry.requests_of(f"/storage/{digest_of(gguf)}")) == 1:
            registry.publish("library/tiny:latest", gguf, layers=LAYERS)
            del registry.blobs[digest_of(gguf)]

    registry.on_request = change
    with pytest.raises(ModelSourceError) as error:
        pull(home, registry, "tiny")
    name = "registry.ollama.ai/library/tiny:latest"
    assert str(error.value) == f"{name} was changed at registry.ollama.ai during the download; pull it again"


@pytest.mark.parametrize("location", ["https://xn--a/", "http://127.0.0.1:99999/", "http://[", "file:///etc/passwd"])
def test_weights_at_an_impossible_place(home: Path, registry: FakeRegistry, gguf: bytes, location: str) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.statuses = [(f"/blobs/{digest_of(gguf)}", 307)] * 99
    registry.error_headers = {"Location": location}
    with pytest.raises(ModelSourceError):
        pull(home, registry, "tiny")


def test_a_failed_update_leaves_the_model(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    model = pull(home, registry, "tiny")
    registry.manifests["library/tiny:latest"] = b"<html>"
    assert pull(home, registry, "tiny") == model
    registry.needs_token = registry.refuses_tokens = True
    assert pull(home, registry, "tiny") == model
    with pytest.raises(ModelAccessError):
        pull(home, registry, "tiny:other")


# Shared blobs, updates, removal


def test_another_tag_of_the_same_weights_downloads_nothing(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.publish("library/tiny:1b", gguf, layers=LAYERS)
    latest = pull(home, registry, "tiny")
    stages: list[Progress] = []
    tagged = pull(home, registry, "tiny:1b", stages.append)
    assert downloads_of(registry, gguf) == 1
    assert os.path.samefile(latest.path, tagged.path)
    assert (read_settings(latest).system, read_settings(tagged).system) == ("", "Be brief.")
    downloading = next(each for each in stages if each.stage is Stage.DOWNLOADING)
    assert downloading.completed_bytes == len(gguf)


def test_weights_that_were_verified_once_are_not_read_again(
    home: Path, registry: FakeRegistry, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tag in ("1", "2"):
        registry.publish(f"library/tiny:{tag}", gguf)
    pull(home, registry, "tiny:1")
    monkeypatch.delattr("hashlib.file_digest")
    assert f"sha256:{pull(home, registry, 'tiny:2').digest}" == digest_of(gguf)


def test_a_damaged_blob_is_downloaded_again(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    blob = home / "models" / "blobs" / blob_name(gguf)
    blob.parent.mkdir(parents=True)
    for damaged in (gguf[:-1] + b"!", gguf[:-1]):
        blob.write_bytes(damaged)
        assert pull(home, registry, "tiny").path.read_bytes() == gguf
        ModelEditor(store_of(home, registry), BlobStore(home)).delete("tiny")


def test_a_pull_repairs_the_weights_of_a_model(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    pull(home, registry, "tiny").path.write_bytes(gguf[:-1] + b"!")
    assert pull(home, registry, "tiny").path.read_bytes() == gguf


def test_the_disk_is_free_after_the_last_removal(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.publish("library/tiny:1b", gguf)
    pull(home, registry, "tiny")
    pull(home, registry, "tiny:1b")
    assert disk_bytes(home) < 1.1 * len(gguf)
    editor = ModelEditor(store_of(home, registry), BlobStore(home))
    editor.delete("tiny")
    assert blobs(home) == [blob_name(gguf)]
    editor.delete("tiny:1b")
    assert blobs(home) == []
    assert disk_bytes(home) < 10_000


def test_a_new_version_with_the_same_weights_downloads_only_the_small_layers(
    home: Path, registry: FakeRegistry, gguf: bytes
) -> None:
    registry.publish("library/tiny:latest", gguf, layers=LAYERS)
    pull(home, registry, "tiny")
    registry.publish("library/tiny:latest", gguf, layers=[("system", b"Be verbose."), ("license", b"MIT")])
    model = pull(home, registry, "tiny")
    assert downloads_of(registry, gguf) == 1
    settings = read_settings(model)
    assert settings.to_json() == {"system": "Be verbose.", "license": ["MIT"]}
    assert disk_bytes(home) < 1.1 * len(gguf)


def test_a_new_version_with_other_weights_replaces_the_old_ones(
    home: Path, registry: FakeRegistry, gguf: bytes, tmp_path: Path
) -> None:
    registry.publish("library/tiny:latest", gguf)
    pull(home, registry, "tiny")
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1).read_bytes()
    registry.publish("library/tiny:latest", other)
    assert pull(home, registry, "tiny").path.read_bytes() == other
    assert blobs(home) == [blob_name(other)]


def test_an_unchanged_model_is_not_downloaded_again(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf, layers=LAYERS)
    model = pull(home, registry, "tiny")
    asked = len(registry.requests_of(digest_of(gguf)))
    assert pull(home, registry, "tiny") == model
    assert len(registry.requests_of(digest_of(gguf))) == asked


# Interrupted downloads, and several at once


def start_child(home: Path, registry: FakeRegistry, name: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PAGODA_REGISTRY": registry.url, "OLLAMA_MODELS": str(home / "no-ollama")}
    command = [sys.executable, "-c", CHILD, str(home), name]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_a_killed_download_is_resumed(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.holds_at = 2_000_000
    with start_child(home, registry, "tiny") as child:
        assert child.stdout is not None
        assert any(int(line) == registry.holds_at for line in child.stdout)
        child.send_signal(signal.SIGKILL)
    registry.holds_at = None
    store_of(home, registry).tidy()  # as a gateway does regularly
    registry.asked.clear()
    assert pull(home, registry, "tiny").path.read_bytes() == gguf
    assert downloads_of(registry, gguf) == 0
    assert "bytes=2000000-" in {each.range for each in registry.requests_of("/storage/")}
    assert blobs(home) == [blob_name(gguf)]


def test_partial_downloads_are_kept_for_two_weeks(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/other:latest", gguf)
    directory = home / "models" / "blobs"
    directory.mkdir(parents=True)
    old = [directory / f"sha256-{'0' * 64}.partial{end}" for end in ("", ".state")]
    new = [directory / f"sha256-{'1' * 64}.partial{end}" for end in ("", ".state")]
    for path in (*old, *new):
        path.write_bytes(b"x")
    now = time.time()
    for path, age in ((old[0], 1), (old[1], 1), (new[0], -60), (new[1], -60)):
        os.utime(path, (now, now - ABANDONED_AFTER_S - age))
    store_of(home, registry).tidy()
    store_of(home, registry).list()
    assert len(blobs(home)) == 4
    pull(home, registry, "other")
    assert blobs(home) == sorted([blob_name(gguf), *(path.name for path in new)])


def test_two_processes_download_a_model_once(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    registry.holds_at = 2_000_000
    begun = threading.Event()
    registry.on_request = lambda path: begun.set() if len(registry.requests_of("/storage/")) > 1 else None
    children = [start_child(home, registry, "tiny") for _ in range(2)]
    assert begun.wait(100)
    registry.holds_at = None
    registry.over.set()  # ends the answer that is held
    for child in children:
        child.communicate()
        assert child.returncode == 0
    assert store_of(home, registry).get("tiny").path.read_bytes() == gguf
    assert downloads_of(registry, gguf) == 1


def test_a_model_that_no_source_has_stays_with_a_warning(
    home: Path, registry: FakeRegistry, gguf: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    registry.publish("library/tiny:latest", gguf)
    model = pull(home, registry, "tiny")
    registry.manifests.clear()
    assert pull(home, registry, "tiny") == model
    (record,) = caplog.records
    assert record.getMessage() == "no newer version could be pulled"
    assert "tiny:latest is not at registry.ollama.ai" in vars(record)["reason"]


def test_a_pull_that_waits_for_another_one_says_so(home: Path, registry: FakeRegistry, gguf: bytes) -> None:
    registry.publish("library/tiny:latest", gguf)
    layout, stages, other = store_of(home, registry).layout, list[Stage](), ExitStack()

    def note(progress: Progress) -> None:
        stages.append(progress.stage)
        if progress.stage is Stage.WAITING:
            other.close()

    with other:
        other.enter_context(layout.pulling(layout.directory("tiny:latest")))
        pull(home, registry, "tiny", note)
    assert stages[:2] == [Stage.WAITING, Stage.RESOLVING]
    stages.clear()
    pull(home, registry, "tiny", note)
    assert stages == [Stage.RESOLVING, Stage.DONE]


def test_two_tags_of_the_same_weights_are_downloaded_once_at_the_same_time(
    home: Path, registry: FakeRegistry, gguf: bytes
) -> None:
    names = [f"tiny:{number}" for number in range(4)]
    for name in names:
        registry.publish(f"library/{name}", gguf)
    with ThreadPoolExecutor() as threads:
        models = list(threads.map(lambda name: pull(home, registry, name), names))
    assert downloads_of(registry, gguf) == 1
    assert len({model.path.stat().st_ino for model in models}) == 1


def test_a_download_that_another_one_has_just_completed(
    home: Path, registry: FakeRegistry, gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look, before the partial file is opened, finds nothing. Then the other download moves its file into place."""
    for name in ("library/tiny:1", "library/tiny:2"):
        registry.publish(name, gguf)
    pull(home, registry, "tiny:1")
    is_there = PartialFile._is_target_there
    monkeypatch.setattr(PartialFile, "_is_target_there", lambda self: self._path.exists() and is_there(self))
    assert pull(home, registry, "tiny:2").path.read_bytes() == gguf
    assert downloads_of(registry, gguf) == 1
    assert blobs(home) == [blob_name(gguf)]


# Names that may be of the hub or of the registry


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        yield hub


def pull_of_either(home: Path, hub: FakeHub, registry: FakeRegistry, name: str) -> Model:
    sources = SourceSettings(hub_url=hub.url, registry_url=registry.url, ollama_stores=())
    store = ModelStore(home, sources=sources)
    return ModelPuller(store, ModelEditor(store, BlobStore(home))).pull(name, ignore)


def test_a_name_that_the_hub_does_not_have_is_asked_of_the_registry(
    home: Path, hub: FakeHub, registry: FakeRegistry, gguf: bytes
) -> None:
    registry.publish("me/tiny:1b", gguf, layers=LAYERS)
    model = pull_of_either(home, hub, registry, "Me/Tiny:1b")
    assert model.name == "me/tiny:1b"
    assert read_settings(model).system == "Be brief."
    assert model.path.is_relative_to(home)
    assert hub.seen
    assert pull_of_either(home, hub, registry, "me/tiny:1b") == model


def test_a_name_that_the_hub_has_is_not_asked_of_the_registry(
    home: Path, hub: FakeHub, registry: FakeRegistry, gguf: bytes
) -> None:
    hub.add("me/tiny", {"tiny.gguf": gguf})
    registry.publish("me/tiny:latest", gguf)
    assert pull_of_either(home, hub, registry, "me/tiny").path.read_bytes() == gguf
    assert registry.asked == []


def test_an_error_names_both_places(home: Path, hub: FakeHub, registry: FakeRegistry) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        pull_of_either(home, hub, registry, "me/missing")
    assert str(error.value) == (
        "hf.co/me/missing does not exist (if it is private, set HF_TOKEN); and me/missing:latest is not at registry.ollama.ai"
    )


def test_an_address_of_the_hub_is_asked_only_of_the_hub(
    home: Path, hub: FakeHub, registry: FakeRegistry, gguf: bytes
) -> None:
    registry.publish("me/tiny:latest", gguf)
    with pytest.raises(ModelNotFoundError, match=r"^hf.co/me/tiny does not exist .if it is private, set HF_TOKEN.$"):
        pull_of_either(home, hub, registry, "hf.co/me/tiny")
    assert registry.asked == []
