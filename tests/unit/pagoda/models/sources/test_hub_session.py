"""Tests of the HTTP client of huggingface_hub, which all pulls of this process share with other uses of the library."""

import threading
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.errors import OfflineModeIsEnabled

from tests.fakes.hub_server import Exchange, FakeHub, running_hub
from tests.fakes.hub_user import HubUser


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_pulls_from_two_hubs_at_once(
    hub: FakeHub, user: HubUser, gguf: bytes, other_gguf: bytes, tmp_path: Path, is_closed: bool
) -> None:
    """Each pull asks its own hub, with its own token, also if the library closes its HTTP client in between."""
    hub.tokens |= {"hf_one": {"Org/Tiny"}}
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf}, is_private=True)
    one = user.with_settings(hub_token="hf_one")
    listing = threading.Event()

    def wait(exchange: Exchange) -> bool:
        if "/tree/" in exchange.path:
            listing.set()
            hub.resume.wait()
        return False

    hub.faults.append(wait)
    thread = threading.Thread(target=lambda: one.pull("Org/Tiny"), daemon=True)
    thread.start()
    listing.wait()
    with running_hub() as other_hub:
        other_hub.add("Org/Tiny", {"tiny-Q8_0.gguf": other_gguf})
        other = HubUser(other_hub, tmp_path / "other")
        assert other.pull("Org/Tiny").path.read_bytes() == other_gguf
        assert {seen.token for seen in other_hub.seen} == {None}
        if is_closed:
            close_session()
    hub.resume.set()
    thread.join()
    assert one.store.get("Org/Tiny").path.read_bytes() == gguf


def test_other_uses_of_the_library(hub: FakeHub, user: HubUser, gguf: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    commit = hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    user.pull("Org/Tiny")
    library = HfApi(endpoint=hub.url, token=False)
    assert library.model_info("Org/Tiny").sha == commit
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineModeIsEnabled):
        library.model_info("Org/Tiny")
