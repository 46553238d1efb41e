"""Tests of pulls from a hub."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from pagoda.models.errors import ModelFormatError, ModelNotFoundError
from pagoda.models.model import ModelFormat
from pagoda.models.names import HubName
from pagoda.models.sources.hub import open_hub
from pagoda.models.sources.progress import Progress, Stage
from pagoda.models.stored_settings import read_settings
from tests.fakes.hub_server import FakeHub
from tests.fakes.hub_user import HubUser
from tests.fakes.tiny_model import write_tiny_gguf


def test_gguf_file_by_its_quantization(hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes) -> None:
    commit = hub.add("Org/Tiny-GGUF", {"README.md": b"-", "tiny-Q4_K_M.gguf": gguf, "tiny-Q8_0.gguf": other_gguf})
    model = user.pull("hf.co/Org/Tiny-GGUF")
    assert (model.name, model.format) == ("Org/Tiny-GGUF", ModelFormat.GGUF)
    assert model.path == user.snapshot("Org/Tiny-GGUF", commit) / "tiny-Q4_K_M.gguf"
    assert model.digest == hashlib.sha256(gguf).hexdigest()
    manifest = user.manifest(model)
    assert (manifest["source"], manifest["path"]) == (f"hf.co/Org/Tiny-GGUF@{commit}", str(model.path))
    other = user.pull("Org/Tiny-GGUF:q8_0")
    assert (other.name, other.digest) == ("Org/Tiny-GGUF:q8_0", hashlib.sha256(other_gguf).hexdigest())
    assert [each.name for each in user.store.list()] == ["Org/Tiny-GGUF", "Org/Tiny-GGUF:q8_0"]
    assert not any("README" in path for path in hub.paths())


def test_checkpoint(hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    extra = {"README.md": b"-", "original/consolidated.00.pth": b"-", "pytorch_model.bin": b"-", "tiny-Q8_0.gguf": b"-"}
    commit = hub.add("Org/Tiny", {**checkpoint, **extra})
    model = user.pull("Org/Tiny")
    assert (model.format, model.path) == (ModelFormat.SAFETENSORS, user.snapshot("Org/Tiny", commit))
    assert {path.name: path.read_bytes() for path in model.path.iterdir()} == checkpoint


def test_gguf_file_in_a_folder(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    commit = hub.add("Org/Tiny", {"Q4_K_M/tiny-Q4_K_M.gguf": gguf})
    path = user.pull("Org/Tiny").path
    assert path == user.snapshot("Org/Tiny", commit) / "Q4_K_M/tiny-Q4_K_M.gguf"
    assert path.read_bytes() == gguf
    assert not path.readlink().is_absolute()


def test_gguf_file_in_parts(hub: FakeHub, user: HubUser, tmp_path: Path) -> None:
    first = write_tiny_gguf(tmp_path / "tiny-Q4_K_M.gguf", tensors_per_part=10)
    parts = {f"Q4_K_M/{path.name}": path.read_bytes() for path in tmp_path.glob("tiny-*-of-*.gguf")}
    assert len(parts) == 3
    commit = hub.add("Org/Tiny", {**parts, "tiny-Q4_0.gguf": b"-"})
    model = user.pull("Org/Tiny")
    assert model.path == user.snapshot("Org/Tiny", commit) / f"Q4_K_M/{first.name}"
    assert model.size_bytes == sum(map(len, parts.values()))
    shutil.rmtree(user.home)
    hub.seen.clear()
    assert user.pull("Org/Tiny:q4_k_m").digest == model.digest
    assert not any(path.endswith(".gguf") for path in hub.paths())


def test_name_is_spelled_as_at_the_hub(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    assert user.pull("hf:ORG/tiny:q8_0").name == "Org/Tiny:q8_0"
    assert user.store.get("org/Tiny:Q8_0").name == "Org/Tiny:q8_0"
    assert user.repo("Org/Tiny").is_dir()


def test_renamed_repository(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/New", {"tiny-Q8_0.gguf": gguf})
    hub.renamed["Org/Old"] = "Org/New"
    model = user.pull("Org/Old")
    assert model.path.is_relative_to(user.repo("Org/New"))
    assert user.store.get("Org/Old").path == model.path


def test_revisions(hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes) -> None:
    old = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    new = hub.commit("Org/Tiny", {"tiny-Q8_0.gguf": other_gguf})
    hub.repos["Org/Tiny"].revisions |= {"v1.0": old, "refs/pr/1": old}
    first, second = hashlib.sha256(gguf).hexdigest(), hashlib.sha256(other_gguf).hexdigest()
    for revision, digest in (("v1.0", first), ("refs/pr/1", first), (old, first), ("main", second), (new, second)):
        model = user.pull(f"Org/Tiny@{revision}")
        assert (model.digest, model.name) == (digest, "Org/Tiny" if revision == "main" else f"Org/Tiny@{revision}")
    assert user.pull("Org/Tiny@v1.0:Q8_0").digest == first
    refs = user.repo("Org/Tiny") / "refs"
    assert {str(path.relative_to(refs)): path.read_text() for path in refs.rglob("*") if path.is_file()} == {
        "main": new,
        "v1.0": old,
        "refs/pr/1": old,
    }


def test_moved_branch_is_pulled_and_the_old_snapshot_stays(
    hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes
) -> None:
    old = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.pull("Org/Tiny")
    hub.seen.clear()
    assert user.pull("Org/Tiny").digest == hashlib.sha256(gguf).hexdigest()
    assert all(path.startswith("/api/") for path in hub.paths())  # nothing has changed
    new = hub.commit("Org/Tiny", {"tiny-Q8_0.gguf": other_gguf})
    model = user.pull("Org/Tiny")
    assert model.path.is_relative_to(user.snapshot("Org/Tiny", new))
    assert model.digest == hashlib.sha256(other_gguf).hexdigest()
    assert (user.snapshot("Org/Tiny", old) / "tiny-Q8_0.gguf").read_bytes() == gguf


def test_unchanged_weights_of_a_new_commit_are_not_downloaded_again(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.pull("Org/Tiny")
    new = hub.commit("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "README.md": b"new"})
    hub.seen.clear()
    assert user.pull("Org/Tiny").path.is_relative_to(user.snapshot("Org/Tiny", new))
    assert not any(path.endswith(".gguf") for path in hub.paths())


def test_settings_beside_a_gguf_file(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    parameters = b'{"temperature": 0.5, "stop": ["<end>"], "num_thread": 8, "mirostat": 2}'
    texts = {"template": b"{{ .Prompt }}", "system": "Réponds.".encode(), "params": parameters}
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "mmproj-F16.gguf": gguf, **texts})
    settings = read_settings(user.pull("Org/Tiny"))
    assert (settings.template, settings.system) == ("{{ .Prompt }}", "Réponds.")
    assert settings.parameters == {"temperature": 0.5, "stop": ["<end>"]}
    projector, ignored = user.resolve("Org/Tiny").warnings
    assert "projector mmproj-F16.gguf" in projector
    assert "mirostat" in ignored


def test_damaged_settings_are_refused(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "params": b"[]"})
    with pytest.raises(ModelFormatError, match="params"):
        user.pull("Org/Tiny")


def test_unknown_quantization(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "tiny-Q4_0.gguf": gguf})
    with pytest.raises(
        ModelNotFoundError, match=r"^hf\.co/Org/Tiny has no GGUF file 'Q5_0' \(available: Q4_0, Q8_0\)$"
    ):
        user.pull("hf.co/Org/Tiny:Q5_0")
    with pytest.raises(
        ModelNotFoundError, match=r"hf\.co/Org/Tiny has no revision 'v2'; name a branch, a tag or a commit"
    ):
        user.pull("Org/Tiny@v2")


def test_revision_that_leaves_the_cache(hub: FakeHub, user: HubUser) -> None:
    name = HubName(repo="Org/Tiny", revision="a/../../../../etc")
    with pytest.raises(ModelNotFoundError, match="is not a revision"), open_hub(name, user.settings):
        pass
    assert hub.paths() == []


def test_unusable_model_is_refused_before_its_download(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    damaged = gguf.replace(b"llama", b"lamma")
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": damaged + b"\0" * (4 << 20)})
    with pytest.raises(ModelFormatError, match=r"^Org/Tiny: "):
        user.pull("Org/Tiny")
    assert all(seen.range is not None for seen in hub.seen if seen.path.startswith("/storage/"))
    assert not (user.repo("Org/Tiny") / "blobs").exists()


def test_unusable_checkpoint_is_refused_by_its_name(
    hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]
) -> None:
    config = json.loads(checkpoint["config.json"]) | {"quantization_config": {"quant_method": "awq", "bits": 3}}
    hub.add("Org/Tiny-AWQ", {**checkpoint, "config.json": json.dumps(config).encode()})
    with pytest.raises(ModelFormatError, match=r"^Org/Tiny-AWQ: weights quantized by AWQ with 3 bits"):
        user.pull("Org/Tiny-AWQ")


def test_progress(hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    hub.add("Org/Tiny", checkpoint)
    shown: list[Progress] = []
    user.pull("Org/Tiny", shown.append)
    total = sum(map(len, checkpoint.values()))
    downloading = [progress for progress in shown if progress.stage is Stage.DOWNLOADING]
    completed = [progress.completed_bytes for progress in downloading]
    assert completed == sorted(completed)
    assert (completed[-1], {progress.total_bytes for progress in downloading}) == (total, {total})
    assert [progress.stage for progress in shown if progress not in downloading][-2:] == [Stage.VERIFYING, Stage.DONE]


def test_files_with_the_same_content(hub: FakeHub, user: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    commit = hub.add("Org/Tiny", {**checkpoint, "special_tokens_map.json": b"{}", "added_tokens.json": b"{}"})
    user.pull("Org/Tiny")
    snapshot = user.snapshot("Org/Tiny", commit)
    assert [(snapshot / name).read_bytes() for name in ("special_tokens_map.json", "added_tokens.json")] == [b"{}"] * 2


def test_removing_the_model_leaves_the_cache(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    path: Path = user.pull("Org/Tiny").path
    user.puller._editor.delete("Org/Tiny")
    assert user.store.list() == []
    assert path.read_bytes() == gguf
