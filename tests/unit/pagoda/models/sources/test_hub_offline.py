"""Tests of pulls without a hub: with HF_HUB_OFFLINE, and while the hub does not answer."""

import hashlib
import logging
import shutil
from collections.abc import Mapping

import pytest

from pagoda.models.errors import ModelError, ModelSourceError
from pagoda.models.sources.settings import SourceSettings
from pagoda.models.stored_settings import read_settings
from tests.fakes.hub_server import FakeHub
from tests.fakes.hub_user import HubUser


@pytest.fixture
def offline(user: HubUser) -> HubUser:
    """Return the user without permission to ask the hub."""
    return user.with_settings(is_offline=True)


@pytest.fixture
def unreachable(user: HubUser) -> HubUser:
    """Return the user with the address of a hub that does not answer."""
    return user.with_settings(hub_url="http://127.0.0.1:9")


def fill(user: HubUser, name: str) -> None:
    """Pull a model and forget it, so that only the cache has it."""
    user.pull(name)
    shutil.rmtree(user.home)
    user.hub.seen.clear()


def refusal(user: HubUser, name: str) -> str:
    with pytest.raises(ModelError) as failure:
        user.pull(name)
    return str(failure.value)


@pytest.mark.parametrize(
    ("variables", "is_offline"),
    [
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "Yes"}, True),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, False),
        ({"TRANSFORMERS_OFFLINE": "1"}, True),
        ({}, False),
    ],
    ids=["one", "yes", "zero", "transformers", "none"],
)
def test_offline_variables(variables: dict[str, str], is_offline: bool) -> None:
    assert SourceSettings.from_environment(variables).is_offline is is_offline


def test_checkpoint_offline(hub: FakeHub, user: HubUser, offline: HubUser, checkpoint: Mapping[str, bytes]) -> None:
    commit = hub.add("Org/Tiny", checkpoint)
    fill(user, "Org/Tiny")
    for name in ("Org/Tiny", f"org/tiny@{commit}"):
        model = offline.pull(name)
        assert model.path == user.snapshot("Org/Tiny", commit)
        assert model.name.startswith("Org/Tiny")
    assert hub.paths() == []


def test_gguf_file_offline(hub: FakeHub, user: HubUser, offline: HubUser, gguf: bytes, other_gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "tiny-Q4_0.gguf": other_gguf})
    fill(user, "Org/Tiny:Q8_0")
    assert offline.pull("Org/Tiny:Q8_0").digest == offline.pull("Org/Tiny").digest == hashlib.sha256(gguf).hexdigest()
    message = refusal(offline, "Org/Tiny:Q4_0")
    assert "hf.co/Org/Tiny has no GGUF file 'Q4_0' (available: Q8_0), among the files in the hub's cache" in message
    assert "HF_HUB_OFFLINE is set" in message
    assert hub.paths() == []


def test_version_is_the_same_with_and_without_the_hub(
    hub: FakeHub, user: HubUser, offline: HubUser, checkpoint: Mapping[str, bytes], gguf: bytes
) -> None:
    hub.add("Org/Tiny", {**checkpoint, "gguf/tiny-Q8_0.gguf": gguf, "system": b"-"})
    for name in ("Org/Tiny", "Org/Tiny:Q8_0"):
        online = user.resolve(name).version
        user.pull(name)
        assert user.resolve(name).version == offline.resolve(name).version == online


def test_model_that_the_cache_lacks(hub: FakeHub, user: HubUser, offline: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    assert refusal(offline, "Org/Tiny") == (
        f"hf.co/Org/Tiny is not in the hub's cache {user.cache}: HF_HUB_OFFLINE is set; unset it to download the model"
    )
    fill(user, "Org/Tiny")
    assert "with the revision 'v1': HF_HUB_OFFLINE is set" in refusal(offline, "Org/Tiny@v1")
    assert hub.paths() == []


def test_incomplete_snapshot_of_the_library(
    hub: FakeHub, user: HubUser, offline: HubUser, checkpoint: Mapping[str, bytes]
) -> None:
    commit = hub.add("Org/Tiny", checkpoint)
    user.run_library("snapshot_download('Org/Tiny', allow_patterns=['*.json', '*.jinja', '*-00001-*'])")
    trees = user.repo("Org/Tiny") / "trees"
    assert (trees / f"{commit}.json").exists()
    message = refusal(offline, "Org/Tiny")
    assert "the file model-00002-of-00002.safetensors of hf.co/Org/Tiny is not in the hub's cache" in message
    for damage in ("{", "[]", '{"format_version": 2}', '{"format_version": 1, "files": {"a": {}}}'):
        (trees / f"{commit}.json").write_text(damage)
        assert "lacks the file 'model-00002-of-00002.safetensors'" in refusal(offline, "Org/Tiny")


def test_complete_snapshot_of_the_library(
    hub: FakeHub, user: HubUser, offline: HubUser, checkpoint: Mapping[str, bytes]
) -> None:
    hub.add("Org/Tiny", {**checkpoint, "README.md": b"-", "merges.txt": b"-"})
    user.run_library("snapshot_download('Org/Tiny', ignore_patterns='*.txt')")
    hub.seen.clear()
    assert offline.pull("Org/Tiny").name == "Org/Tiny"
    assert hub.paths() == []


def test_damaged_file_offline(hub: FakeHub, user: HubUser, offline: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    fill(user, "Org/Tiny")
    (blob,) = (user.repo("Org/Tiny") / "blobs").iterdir()
    blob.write_bytes(gguf[:-1] + b"!")
    message = refusal(offline, "Org/Tiny")
    assert message.startswith("the file tiny-Q8_0.gguf of hf.co/Org/Tiny@")
    assert "in the hub's cache is damaged, and HF_HUB_OFFLINE is set" in message
    assert blob.exists()


def test_settings_offline(hub: FakeHub, user: HubUser, offline: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "system": b"Be polite."})
    fill(user, "Org/Tiny")
    assert read_settings(offline.pull("Org/Tiny")).system == "Be polite."


def test_settings_that_another_program_left_out_come_with_the_next_pull(
    hub: FakeHub, user: HubUser, offline: HubUser, gguf: bytes
) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf, "system": b"Be polite."})
    user.run_library("hf_hub_download('Org/Tiny', 'tiny-Q8_0.gguf')")
    assert read_settings(offline.pull("Org/Tiny")).system == ""
    assert read_settings(user.pull("Org/Tiny")).system == "Be polite."
    assert read_settings(offline.pull("Org/Tiny")).system == "Be polite."


def test_unreachable_hub_is_replaced_by_the_cache(
    hub: FakeHub, user: HubUser, unreachable: HubUser, gguf: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    fill(user, "Org/Tiny")
    with caplog.at_level(logging.WARNING):
        assert unreachable.pull("Org/Tiny").digest == hashlib.sha256(gguf).hexdigest()
    (record,) = [record for record in caplog.records if record.msg == "hub not reachable; using its cache"]
    assert vars(record)["model"].startswith("hf.co/Org/Tiny@")
    assert "the hub 127.0.0.1 cannot be reached" in vars(record)["reason"]


def test_unreachable_hub_without_the_model_in_the_cache(unreachable: HubUser) -> None:
    with pytest.raises(ModelSourceError, match=r"^the hub 127\.0\.0\.1 cannot be reached"):
        unreachable.pull("Org/Tiny")


def test_refused_access_is_not_replaced_by_the_cache(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    fill(user, "Org/Tiny")
    hub.repos["Org/Tiny"].is_private = True
    assert "does not exist (if it is private" in refusal(user, "hf.co/Org/Tiny")


def test_gated_model_in_the_cache_needs_no_token(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    fill(user, "Org/Tiny")
    hub.repos["Org/Tiny"].is_gated = True
    assert user.pull("Org/Tiny").digest == hashlib.sha256(gguf).hexdigest()
