"""Tests of pulls in several processes, one of which may be killed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.hub_server import FakeHub
from tests.fakes.hub_user import HubUser
from tests.fakes.waiting import until

_PULL = """
from pathlib import Path
from pagoda.models.pull import open_puller
open_puller(Path({home!r})).pull("Org/Tiny", lambda progress: print(progress.completed_bytes, flush=True))
"""
_DOWNLOAD = """
from huggingface_hub import hf_hub_download
print(hf_hub_download("Org/Tiny", "tiny-Q8_0.gguf"))
"""


@contextmanager
def running(user: HubUser, program: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program on the user's hub and cache. It is killed after the block, if it is still running."""
    variables = {"HF_ENDPOINT": user.hub.url, "HF_HUB_CACHE": str(user.cache), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def storage_ranges(hub: FakeHub) -> list[str | None]:
    return [seen.range for seen in hub.seen if seen.path.startswith("/storage/")]


def test_killed_download_is_resumed(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.stall_after = [None, 200_000]  # the first answer is for the header
    with running(user, _PULL.format(home=str(user.home))) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 200_000:
                break
        process.kill()
    assert not user.store.list()
    hub.seen.clear()
    assert user.pull("Org/Tiny").path.read_bytes() == gguf
    assert storage_ranges(hub)[-1] == "bytes=200000-"


async def test_two_processes_download_once(hub: FakeHub, user: HubUser, gguf: bytes, tmp_path: Path) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.stall_after = [None, 200_000]
    with running(user, _PULL.format(home=str(tmp_path / "one"))) as one:
        await until(hub.stalled.is_set)
        with running(user, _PULL.format(home=str(tmp_path / "two"))) as two:
            await until(lambda: len(storage_ranges(hub)) == 3)  # the header of the second process
            hub.resume.set()
            for process in (one, two):
                process.communicate()
                assert process.returncode == 0
    assert len(storage_ranges(hub)) == 3
    # The library would also ask for a list of coding agents.
    assert {path.split("/")[1] for path in hub.paths()} == {"api", "Org", "storage"}
    assert all(path.startswith("/api/models/Org/Tiny/") for path in hub.paths() if path.startswith("/api/"))


async def test_library_waits_for_pagoda(hub: FakeHub, user: HubUser, gguf: bytes) -> None:
    hub.add("Org/Tiny", {"tiny-Q8_0.gguf": gguf})
    hub.stall_after = [None, 200_000]
    with running(user, _PULL.format(home=str(user.home))) as process:
        await until(hub.stalled.is_set)
        with running(user, _DOWNLOAD) as library:
            await until(lambda: any("/resolve/main/" in path for path in hub.paths(method="HEAD")))
            hub.resume.set()
            process.communicate()
            path = library.communicate()[0].strip()
    assert (process.returncode, library.returncode) == (0, 0)
    assert path == str(user.store.get("Org/Tiny").path)
    assert len(storage_ranges(hub)) == 2


@pytest.mark.parametrize("variable", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
def test_malformed_time_limit(user: HubUser, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """huggingface_hub cannot be imported then."""
    monkeypatch.setenv(variable, "2.5")
    pagoda = str(Path(sys.executable).with_name("pagoda"))
    command = [pagoda, "pull", "hf.co/Org/Tiny", "--home", str(user.home)]
    failure = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert failure.stderr == (
        "Error: HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT must be whole numbers of seconds "
        "(invalid literal for int() with base 10: '2.5')\n"
    )
